"""`pgferry doctor …`: what is wrong, found out before it is needed.

Only a command that runs loads the Telegram library.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import show_json, show_table
from cli.run import finished, settings_or_exit
from cli.settings import DoctorSettings

if TYPE_CHECKING:
    from cli.examination import Check

app = typer.Typer(no_args_is_help=True, help="Find out what is wrong before it is needed.")


@app.callback()
def doctor() -> None:
    """Find out what is wrong before it is needed."""


@app.command()
def telegram(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Try all that a bot must be able to do, in each chat of TELEGRAM_CHAT_ID.

    It posts, fetches, edits, pins, unpins and deletes a document of one line, and compares the clocks.

    Exits with 1 if the bot may not do one of these.

    Example: pgferry doctor telegram
    """
    checks = finished(_examined())
    if as_json:
        show_json([asdict(check) for check in checks])
    else:
        show_table(("CHAT", "CHECK", "RESULT"), [_row(check) for check in checks])
    if any(check.problem for check in checks):
        raise typer.Exit(1)


def _row(check: "Check") -> tuple[object, ...]:
    well = f"ok: {check.found}" if check.found else "ok"
    return check.chat_id or "-", check.check, check.problem or well


async def _examined() -> "list[Check]":
    from cli.examination import examined  # noqa: PLC0415 - see the module's docstring

    return await examined(settings_or_exit(DoctorSettings))
