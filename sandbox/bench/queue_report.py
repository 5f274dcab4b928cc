"""The figures of `./run bench queue` as the Markdown tables that docs/performance.md shows."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from sandbox.bench.figures import ratio
from sandbox.bench.queue_figures import CONSUME, INTAKE, PUBLISH, RELAY, STAND_IN
from sandbox.bench.report import machine_line, seconds_of, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.bench.queue_figures import QueueFigures, Round

_CHAIN, _RIVAL = "pgferry, request to recorded backup", "`xargs -P5 pg_dump`, to files"


def queue_report(figures: QueueFigures) -> str:
    """The aim first, then what it was taken from."""
    rounds = f"median of {len(figures.chain)} rounds" if len(figures.chain) > 1 else "one round"
    exports = f"{figures.tenants} tenants of {figures.tables} tables"
    return "\n\n".join(
        [
            machine_line(figures.machine),
            table(("aim", "at least", "measured"), _aims(figures)),
            table((f"{exports}, {rounds}", "seconds", "exports/s"), _rates(figures)),
            table(("processor time of one export, ms", "pgferry", "`xargs`"), _processor(figures)),
            table((f"{figures.messages} messages, {rounds}", "ms each", "x bare"), _messages(figures)),
        ]
    )


def _aims(figures: QueueFigures) -> Iterator[Sequence[str]]:
    yield "exports per second against `xargs`", "0.70 x", f"{median(figures.rate_ratios):.2f} x"
    without = median(figures.rate_ratios_without_stand_in)
    yield "the same without the stand-in's processor time", "-", f"{without:.2f} x"
    yield "processor time of `xargs` against pgferry's", "-", f"{median(figures.processor_ratios):.2f} x"


def _rates(figures: QueueFigures) -> Iterator[Sequence[str]]:
    for name, rounds in ((_CHAIN, figures.chain), (_RIVAL, figures.rival)):
        seconds = [measured.seconds for measured in rounds]
        yield name, seconds_of(seconds), f"{figures.tenants / median(seconds):.2f}"


def _processor(figures: QueueFigures) -> Iterator[Sequence[str]]:
    for name in figures.chain[0].processor:
        yield name, _each(figures, figures.chain, name), _each(figures, figures.rival, name)
    yield (
        f"all but the {STAND_IN}",
        _sum(figures, figures.chain),
        _sum(figures, figures.rival),
    )


def _each(figures: QueueFigures, rounds: Sequence[Round], name: str) -> str:
    if name not in rounds[0].processor:
        return "-"
    return _milliseconds(median(measured.processor[name] for measured in rounds) / figures.tenants)


def _sum(figures: QueueFigures, rounds: Sequence[Round]) -> str:
    return _milliseconds(median(measured.own_processor for measured in rounds) / figures.tenants)


def _messages(figures: QueueFigures) -> Iterator[Sequence[str]]:
    for ours, bare in ((RELAY, PUBLISH), (INTAKE, CONSUME)):
        for name in (ours, bare):
            each = median(figures.carried[name]) / figures.messages
            yield name, f"{each * 1000:.2f}", f"{ratio(figures.carried[name], figures.carried[bare]):.2f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"
