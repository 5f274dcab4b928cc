"""`pgferry dlq …`: the messages that wait for a person.

Only what a command does loads an AMQP library: `cli.letters`.
"""

import sys
from collections import Counter
from collections.abc import Coroutine
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.letter_view import COLUMNS, View, body_in_json, body_lines, details, row
from cli.output import counted, show_fields, show_json, show_table, text_of
from cli.run import fail, finished
from shared.contracts.letter import LETTER_QUEUES

if TYPE_CHECKING:
    from cli.letters import Selection, Tally

app = typer.Typer(
    no_args_is_help=True,
    help="Look at dead letters, unreadable and unrouted messages; put them back to work, or discard them.",
)


class QueueName(StrEnum):
    DEAD = "dead"
    DEAD_EXPORTER = "dead.exporter"
    DEAD_UPLOADER = "dead.uploader"
    UNREADABLE = "unreadable"
    UNROUTED = "unrouted"


class GroupBy(StrEnum):
    REASON = "reason"


NOTHING = "no letter is meant by that; pgferry dlq list shows those that wait"

LetterId = Annotated[str, typer.Argument(metavar="ID", help="As `pgferry dlq list` shows it.")]
MaybeLetterId = Annotated[str | None, typer.Argument(metavar="ID", help="As `pgferry dlq list` shows it.")]
InQueue = Annotated[
    QueueName | None,
    typer.Option(
        metavar="<queue>", help=f"Only this one: {', '.join(QueueName)}; dead means both dead ones."
    ),
]
ByReason = Annotated[str | None, typer.Option(help="All with this reason.")]
All = Annotated[bool, typer.Option("--all", help="All letters, or all of --queue.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@app.command("list")
def list_letters(
    group_by: Annotated[GroupBy | None, typer.Option(help="Count instead of listing.")] = None,
    queue: InQueue = None,
    reason: ByReason = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="List at most so many.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """The letters of each queue, the oldest first.

    Example: pgferry dlq list --group-by reason
    """
    from cli.letters import Selection, look  # noqa: PLC0415 - see the module's docstring

    selection, view = Selection(_queues(queue), reason=reason), View(limit)
    finished(look(selection, view.see))
    if group_by is not None:
        _show_groups(view.groups, as_json=as_json)
        return
    listed = view.listed
    if as_json:
        show_json(listed)
    else:
        show_table(COLUMNS, [row(shown) for shown in listed])
    if left := view.groups.total() - len(listed):
        typer.echo(f"{counted(left, 'more letter')}; --limit says how many are listed", err=True)


@app.command()
def show(letter_id: LetterId, queue: InQueue = None, as_json: AsJson = False) -> None:
    """Everything about one letter, and its body.

    Example: pgferry dlq show 5f0c2a9e-6d1b-4f0e-9a37-2f6f3c8d7b10
    """
    from cli.letters import Selection, look  # noqa: PLC0415 - see the module's docstring

    view = View(limit=1)
    finished(look(Selection(_queues(queue), id=letter_id.lower()), view.see))
    letter = view.first
    if letter is None:
        fail(f"no letter {letter_id}; pgferry dlq list shows those that wait")
    if as_json:
        show_json(details(letter) | body_in_json(letter.delivery.body))
        return
    show_fields(details(letter))
    typer.echo("body")
    for line in body_lines(letter.delivery.body):
        typer.echo(f"  {line}")


@app.command()
def requeue(
    letter_id: MaybeLetterId = None,
    reason: ByReason = None,
    everything: All = False,
    queue: InQueue = None,
    rate: Annotated[float, typer.Option(min=0.01, max=10_000, help="At most so many in a second.")] = 10,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Put letters back to work: the failed job of a dead letter, or the message as it was published.

    Ctrl-C stops between two letters; the rest stays where it is.

    Example: pgferry dlq requeue --reason schema_missing --rate 2
    """
    from cli.letters import Selection, Tally  # noqa: PLC0415 - see the module's docstring
    from cli.letters import requeue as requeue_letters  # noqa: PLC0415 - see the module's docstring

    selection = Selection(_queues(queue), *_which(letter_id, reason, everything=everything))
    _confirm("Requeue", selection, yes=yes)
    tally = Tally()
    _carry_out(requeue_letters(selection, tally, rate=rate), tally, "requeued", as_json=as_json)


@app.command()
def discard(
    letter_id: MaybeLetterId = None,
    reason: ByReason = None,
    everything: All = False,
    queue: InQueue = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Throw letters away for good; the job of a dead letter stays failed.

    Example: pgferry dlq discard 5f0c2a9e-6d1b-4f0e-9a37-2f6f3c8d7b10
    """
    from cli.letters import Selection, Tally  # noqa: PLC0415 - see the module's docstring
    from cli.letters import discard as discard_letters  # noqa: PLC0415 - see the module's docstring

    selection = Selection(_queues(queue), *_which(letter_id, reason, everything=everything))
    _confirm("Discard", selection, yes=yes)
    tally = Tally()
    _carry_out(discard_letters(selection, tally), tally, "discarded", as_json=as_json)


def _queues(queue: QueueName | None) -> tuple[str, ...]:
    """A queue by its name; several by none, or by the first word of theirs."""
    return tuple(name for name in LETTER_QUEUES if queue is None or f"{name}.".startswith(f"{queue}."))


def _which(letter_id: str | None, reason: str | None, *, everything: bool) -> tuple[str | None, str | None]:
    """Id and reason of the letters that are meant; exits with 2 unless exactly one thing was said."""
    if [letter_id is not None, reason is not None, everything].count(True) != 1:
        fail("say which letters: one ID, or --reason R, or --all", code=2)
    return letter_id.lower() if letter_id else None, reason


def _confirm(verb: str, selection: "Selection", *, yes: bool) -> None:
    """Ask whether what is there now is what was meant; exits unless somebody agrees."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail("nobody can be asked here; --yes means that nobody need be", code=2)
    from cli.letters import look  # noqa: PLC0415 - see the module's docstring

    view = View(limit=0)
    finished(look(selection, view.see))
    if not view.groups:
        fail(NOTHING)
    for (queue, reason), number in sorted(view.groups.items()):
        typer.echo(f"{text_of(queue)}  {text_of(reason)}  {number}", err=True)
    typer.echo(f"{verb} {counted(view.groups.total(), 'letter')}? [y/N] ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        fail("nothing was done")


def _carry_out(command: Coroutine[Any, Any, None], tally: "Tally", verb: str, *, as_json: bool) -> None:
    """Run to the end and say what was done, also where a failure or Ctrl-C ended it before."""
    try:
        finished(command)
    except typer.Exit:
        if tally.ways:
            _show_tally(tally, verb, as_json=as_json)
        raise
    _show_tally(tally, verb, as_json=as_json)
    if not tally.ways:
        fail(NOTHING)
    if tally.refused:
        fail(f"{counted(len(tally.refused), 'letter')} not {verb}")


def _show_tally(tally: "Tally", verb: str, *, as_json: bool) -> None:
    if as_json:
        show_json({verb: tally.settled, "ways": tally.ways, "refused": tally.refused})
    elif tally.settled == 1:
        typer.echo(f"{verb}: {tally.said}")
    elif tally.ways:
        ways = ", ".join(f"{number} {way}" for way, number in sorted(tally.ways.items()))
        typer.echo(f"{verb}: {counted(tally.settled, 'letter')} ({ways})")


def _show_groups(counts: Counter[tuple[str, str]], *, as_json: bool) -> None:
    groups = [(queue, reason, number) for (queue, reason), number in counts.most_common()]
    if as_json:
        names = ("queue", "reason", "letters")
        show_json([dict(zip(names, group, strict=True)) for group in groups])
    else:
        show_table(("QUEUE", "REASON", "LETTERS"), groups)
