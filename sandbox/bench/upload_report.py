"""The figures of `./run bench upload` as the Markdown tables that docs/performance.md shows."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from sandbox.bench.figures import MIB, ratio
from sandbox.bench.report import machine_line, seconds_of, table
from sandbox.bench.upload_figures import LOOP, UPLOADER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.bench.upload_figures import LaneRun, UploadFigures


def upload_report(figures: UploadFigures) -> str:
    """Aims first, then what they were taken from."""
    rounds = len(figures.seconds[UPLOADER])
    times = f"median of {rounds} rounds" if rounds > 1 else "one round"
    lane = f"lanes of {figures.messages} documents in {figures.window_seconds:g} s, {times}"
    size = f"{figures.parts} parts of {figures.part_bytes / MIB:g} MiB, {times}"
    return "\n\n".join(
        [
            machine_line(figures.machine),
            table(("aim", "wanted", "measured"), _aims(figures)),
            table((lane, "seconds", "floor", "x the floor", "one document, ms"), _lanes(figures)),
            table((size, "seconds", "MB/s", "rate against the loop"), _rates(figures)),
            table(("peak memory of the uploader's process", "MiB"), _memory(figures)),
        ]
    )


def _aims(figures: UploadFigures) -> Iterator[Sequence[str]]:
    for runs in _groups(figures):
        name = f"{_documents(runs[0])} against the lane's floor"
        yield name, "at most 1.05 x", f"{_against_floor(figures, runs):.2f} x"
    yield "documents that Telegram's rule refused", "0", str(sum(run.refused for run in figures.lanes))
    for documents in _sizes(figures):
        times = f"{_chats_ratio(figures, documents):.2f} x"
        yield f"{documents} documents, four chats against one", "at least 3.8 x", times
    rate = ratio(figures.seconds[LOOP], figures.seconds[UPLOADER])
    yield "bytes per second against the bare loop", "at least 0.90 x", f"{rate:.2f} x"
    peaks = figures.peaks
    grown = f"{peaks.many / peaks.few:.2f} x"
    yield f"memory at {figures.parts} parts against {figures.few_parts}", "at most 1.10 x", grown
    yield "memory for each further upload", "at most 5 MiB", _mib(figures.bytes_for_further_upload)


def _lanes(figures: UploadFigures) -> Iterator[Sequence[str]]:
    for runs in _groups(figures):
        yield (
            _documents(runs[0]),
            seconds_of([run.seconds for run in runs]),
            f"{median(figures.floor_seconds(run) for run in runs):.2f}",
            f"{_against_floor(figures, runs):.2f}",
            f"{median(run.one_document for run in runs) * 1000:.0f}",
        )


def _rates(figures: UploadFigures) -> Iterator[Sequence[str]]:
    megabytes = figures.parts * figures.part_bytes / 1e6
    for name, seconds in figures.seconds.items():
        rate = f"{ratio(figures.seconds[LOOP], seconds):.2f}"
        yield name, seconds_of(seconds), f"{megabytes / median(seconds):.0f}", rate


def _memory(figures: UploadFigures) -> Iterator[Sequence[str]]:
    peaks = figures.peaks
    yield "before the first upload", _mib(peaks.start)
    yield f"one upload, {figures.few_parts} parts", _mib(peaks.few)
    yield f"one upload, {figures.parts} parts", _mib(peaks.many)
    yield f"{peaks.jobs} uploads at once, {figures.parts} parts each", _mib(peaks.at_once)


def _groups(figures: UploadFigures) -> Iterator[Sequence[LaneRun]]:
    for documents in _sizes(figures):
        for chats in sorted({run.chats for run in figures.lanes}):
            yield figures.lane_runs(documents, chats)


def _sizes(figures: UploadFigures) -> list[int]:
    return sorted({run.documents for run in figures.lanes})


def _documents(run: LaneRun) -> str:
    return f"{run.documents} documents, {run.chats} chat{'s' if run.chats > 1 else ''}"


def _against_floor(figures: UploadFigures, runs: Sequence[LaneRun]) -> float:
    return median(run.seconds / figures.floor_seconds(run) for run in runs)


def _chats_ratio(figures: UploadFigures, documents: int) -> float:
    one, four = (figures.lane_runs(documents, chats) for chats in (1, 4))
    return ratio([run.seconds for run in one], [run.seconds for run in four])


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"
