"""`./run bench`: reads the options, measures, prints the tables."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sandbox.bench.export import Bench
from sandbox.bench.plant import BenchFailed
from sandbox.bench.report import report
from sandbox.narration import Narration

app = typer.Typer(add_completion=False)


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
    try:
        figures = asyncio.run(Bench(megabytes, rounds, jobs, tables, large=large, narration=narration)())
    except BenchFailed as error:
        narration.line(f"\nThe bench failed: {error}")
        raise typer.Exit(1) from error
    narration.line(f"\n{report(figures)}")
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(figures), indent=1) + "\n", encoding="utf-8")


app(prog_name="./run bench")
