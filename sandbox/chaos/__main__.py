"""`./run chaos`: seeds one after another until the time is up, a line for each, a summary at the end."""

import asyncio
import json
import logging
import secrets
import time
from pathlib import Path
from typing import Annotated

import structlog
import typer

from sandbox.chaos import report
from sandbox.chaos.fault import Only
from sandbox.chaos.plan import plan_of
from sandbox.chaos.seed import Outcome, run_seed
from sandbox.chaos.servers import running_servers

_SEED_BITS = 20
#: They print each failure to reach a broker that we have killed.
_CHATTY = ("aio_pika", "aiormq")


def main(
    *,
    minutes: Annotated[float, typer.Option(help="No seed begins after this time.", min=0)] = 0,
    seed: Annotated[int | None, typer.Option(help="The first seed; further ones count up from it.")] = None,
    seeds: Annotated[int | None, typer.Option(help="At most so many seeds.", min=1)] = None,
    only: Annotated[Only | None, typer.Option(help="Only faults that this part must survive.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record to this file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the timeline of good seeds, too.")] = False,
) -> None:
    """Kill, freeze, cut and fill, and check that nothing accepted is lost and nothing is done twice.

    Without --minutes and --seeds it is one seed. `--seed N` repeats the same requests and faults.
    """
    for library in _CHATTY:
        logging.getLogger(library).setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    first = secrets.randbits(_SEED_BITS) if seed is None else seed
    count = seeds or (None if minutes else 1)
    summary = asyncio.run(_run(first, count, minutes * 60, only, show=show))
    typer.echo("\n".join(["", *summary.lines()]))
    if json_file is not None:
        json_file.write_text(json.dumps(summary.as_json(), indent=1) + "\n", encoding="utf-8")
    if summary.violations:
        raise typer.Exit(1)


async def _run(
    first: int, count: int | None, seconds: float, only: Only | None, *, show: bool
) -> report.Summary:
    summary = report.Summary()
    started = time.monotonic()
    async with running_servers() as servers:
        typer.echo(report.HEADER)
        while len(summary.outcomes) != count:
            if summary.outcomes and seconds and time.monotonic() - started > seconds:
                break
            outcome = await run_seed(servers, plan_of(first + len(summary.outcomes), only))
            summary.outcomes.append(outcome)
            _tell(outcome, only, show=show)
    return summary


def _tell(outcome: Outcome, only: Only | None, *, show: bool) -> None:
    typer.echo(report.line(outcome))
    if show or outcome.violations:
        typer.echo("\n".join(outcome.timeline))
    for violation in outcome.violations:
        typer.echo(str(violation))
    if outcome.violations:
        repeat = f"./run chaos --seed {outcome.seed}" + (f" --only {only.value}" if only else "")
        typer.echo(f"Logs and timeline are in {outcome.folder}. To repeat: {repeat}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="./run chaos")
