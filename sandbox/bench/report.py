"""The bench's figures as the Markdown tables that docs/performance.md shows."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from sandbox.bench.figures import FC, LIMIT, MIB, PGFERRY, Figures, Rounds, ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


def report(figures: Figures) -> str:
    """Aims first, then what they were taken from."""
    return "\n\n".join(
        [
            machine_line(figures.machine),
            table(("aim", "at most", "measured"), _aims(figures)),
            table(
                (f"{figures.whole.plain_bytes / 1e6:.0f} MB, {_rounds(figures)}", "seconds", "x the limit"),
                _against(figures.whole.seconds),
            ),
            table(("peak memory of the exporter's process", "MiB"), _memory(figures)),
            table(("own processor time per GB of plain stream", "seconds"), _stages(figures)),
            table(
                (f"a tenant of 1 MB, {_rounds(figures)}", "pg_dump alone", "pgferry", "more"), _small(figures)
            ),
        ]
    )


def _aims(figures: Figures) -> Iterator[Sequence[str]]:
    """The first column says what; the last one may be pasted into a closing note."""
    seconds, peaks, at_once = figures.whole.seconds, figures.peaks, figures.at_once
    yield "pgferry against the limit", "1.15 x", f"{ratio(seconds[PGFERRY], seconds[LIMIT]):.2f} x"
    yield "pgferry against `pg_dump -Fc`", "0.50 x", f"{ratio(seconds[PGFERRY], seconds[FC]):.2f} x"
    yield "memory for one job", "120 MiB", _mib(peaks.whole)
    yield "memory for each further job", "30 MiB", _mib(figures.bytes_for_further_job)
    yield (
        f"memory at {figures.megabytes} MB against a tenth of it",
        "1.10 x",
        f"{peaks.whole / peaks.tenth:.2f} x",
    )
    if peaks.ten_times is not None:
        grown = peaks.ten_times / peaks.whole
        yield f"memory at {figures.megabytes * 10} MB against a tenth of it", "1.10 x", f"{grown:.2f} x"
    read = median(figures.stages["read and count"]) / figures.whole.gigabytes
    yield "processor time to read and count 1 GB", "2 s", f"{read:.2f} s"
    one_by_one = [at_once.jobs * seconds for seconds in at_once.one]
    share = ratio(at_once.together, one_by_one)
    yield f"{at_once.jobs} jobs at once against one after the other", "-", f"{share:.2f} x"


def _against(seconds: Rounds) -> Iterator[Sequence[str]]:
    for name, measured in seconds.items():
        yield name, seconds_of(measured), f"{ratio(measured, seconds[LIMIT]):.2f}"


def _memory(figures: Figures) -> Iterator[Sequence[str]]:
    peaks = figures.peaks
    yield "before the first job", _mib(peaks.start)
    yield f"one job, {figures.tenth_megabytes} MB", _mib(peaks.tenth)
    yield f"one job, {figures.megabytes} MB", _mib(peaks.whole)
    if peaks.ten_times is not None:
        yield f"one job, {figures.megabytes * 10} MB", _mib(peaks.ten_times)
    yield f"{figures.at_once.jobs} jobs at once, {figures.tenth_megabytes} MB each", _mib(peaks.at_once)


def _stages(figures: Figures) -> Iterator[Sequence[str]]:
    for stage, seconds in figures.stages.items():
        yield stage, f"{median(seconds) / figures.whole.gigabytes:.2f}"
    yield (
        "whole process, during the rounds above",
        f"{figures.whole.cpu_seconds / figures.whole.gigabytes:.2f}",
    )


def _small(figures: Figures) -> Iterator[Sequence[str]]:
    for where, small in (
        ("in a database of its own kind", figures.small),
        (f"among {figures.tables:,} tables of others", figures.lost),
    ):
        more = median(ours - alone for ours, alone in zip(small.pgferry, small.pg_dump, strict=True))
        yield where, seconds_of(small.pg_dump), seconds_of(small.pgferry), f"{more:.2f} s"


def machine_line(machine: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {fact}" for name, fact in machine.items()) + "."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds_of(measured: Sequence[float]) -> str:
    return f"{median(measured):.2f} ({min(measured):.2f} to {max(measured):.2f})"


def _mib(size: float) -> str:
    return f"{size / MIB:.0f} MiB"


def _rounds(figures: Figures) -> str:
    count = len(figures.at_once.one)
    return f"median of {count} rounds" if count > 1 else "one round"
