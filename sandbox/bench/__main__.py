"""`./run bench`: reads the options, measures, prints the tables."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from sandbox.bench.export import Bench
from sandbox.bench.figures import Figures
from sandbox.bench.plant import BenchFailed
from sandbox.bench.queue import QueueBench
from sandbox.bench.queue_figures import QueueFigures
from sandbox.bench.queue_report import queue_report
from sandbox.bench.report import report
from sandbox.bench.upload import UploadBench
from sandbox.bench.upload_figures import UploadFigures
from sandbox.bench.upload_report import upload_report
from sandbox.narration import Narration

app = typer.Typer(add_completion=False)

_Figures = TypeVar("_Figures", Figures, QueueFigures, UploadFigures)


@app.callback()
def bench() -> None:
    """Measure pgferry on private servers."""


@app.command()
def export(
    *,
    megabytes: Annotated[int, typer.Option(help="Size of the tenant as a plain dump.", min=1)] = 800,
    rounds: Annotated[int, typer.Option(help="How often everything is measured.", min=1)] = 3,
    jobs: Annotated[int, typer.Option(help="Jobs at once, a tenth of the size each.", min=2, max=5)] = 5,
    tables: Annotated[int, typer.Option(help="Tables of others around a small tenant.", min=1)] = 20_000,
    large: Annotated[bool, typer.Option("--large", help="Peak memory at ten times the size, too.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """An export, from the claim of its job to its record, against pg_dump alone."""
    narration = Narration()
    figures = _measured(Bench(megabytes, rounds, jobs, tables, large=large, narration=narration), narration)
    _show(figures, report(figures), narration, json_file)


@app.command()
def queue(
    *,
    tenants: Annotated[int, typer.Option(help="Tenants, each exported once in a round.", min=1)] = 50,
    tables: Annotated[int, typer.Option(help="Tables of each tenant, of 100 rows.", min=1)] = 10,
    rounds: Annotated[int, typer.Option(help="How often everything is measured.", min=1)] = 3,
    messages: Annotated[int, typer.Option(help="Messages for relay and intake.", min=1)] = 5_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """Exports per second from the request to the recorded backup, against `xargs -P5 pg_dump`.

    Also milliseconds per message of relay and intake, against bare publishing and consuming.
    """
    narration = Narration()
    figures = _measured(QueueBench(tenants, tables, rounds, messages, narration), narration)
    _show(figures, queue_report(figures), narration, json_file)


@app.command()
def upload(
    *,
    documents: Annotated[
        list[int] | None, typer.Option(help="Documents of a dump in its lanes; repeatable. [200, 540]", min=2)
    ] = None,
    parts: Annotated[int, typer.Option(help="Parts whose bytes per second are measured.", min=3)] = 20,
    mebibytes: Annotated[int, typer.Option(help="Size of each of these parts.", min=1, max=19)] = 19,
    rounds: Annotated[int, typer.Option(help="How often everything is measured.", min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """An upload in the lanes of one and of four chats against what Telegram's rule alone takes, at 1:20.

    Also bytes per second against a bare loop of send_document.
    """
    narration = Narration()
    figures = _measured(UploadBench(documents or [200, 540], parts, mebibytes, rounds, narration), narration)
    _show(figures, upload_report(figures), narration, json_file)


def _measured(bench: Callable[[], Coroutine[None, None, _Figures]], narration: Narration) -> _Figures:
    try:
        return asyncio.run(bench())
    except BenchFailed as error:
        narration.line(f"\nThe bench failed: {error}")
        raise typer.Exit(1) from error


def _show(figures: _Figures, tables: str, narration: Narration, json_file: Path | None) -> None:
    narration.line(f"\n{tables}")
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(figures), indent=1) + "\n", encoding="utf-8")


app(prog_name="./run bench")
