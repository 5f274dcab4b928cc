"""What the bench has measured, as it was measured; `sandbox.bench.report` makes tables of it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

LIMIT = "`pg_dump > /dev/null`, the limit"
PGFERRY = "pgferry: counted, zstd, age, parts in the spool"
FC = "`pg_dump -Fc`"

GIGABYTE = 1e9
MIB = 1024 * 1024

Rounds = dict[str, list[float]]
"""Seconds of each round, by what ran; round *n* of all of them ran one after another."""


@dataclass(frozen=True, slots=True)
class Whole:
    """One large job against pg_dump and its friends."""

    plain_bytes: int
    seconds: Rounds
    cpu_seconds: float  #: of the exporter's own process, for one job

    @property
    def gigabytes(self) -> float:
        return self.plain_bytes / GIGABYTE


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Several jobs of a tenth of the size in one process."""

    jobs: int
    one: list[float]
    together: list[float]


@dataclass(frozen=True, slots=True)
class Peaks:
    """Most resident memory of an exporter's process, in bytes."""

    start: int  #: before its first job
    tenth: int
    whole: int
    at_once: int
    ten_times: int | None


@dataclass(frozen=True, slots=True)
class Small:
    """Seconds of each round for a tenant of which a dump is mostly its beginning and end."""

    pg_dump: list[float]
    pgferry: list[float]


@dataclass(frozen=True, slots=True)
class Figures:
    machine: dict[str, str]
    megabytes: int
    tenth_megabytes: int
    tables: int
    whole: Whole
    stages: Rounds  #: processor seconds of each stage, for the whole
    at_once: AtOnce
    peaks: Peaks
    small: Small
    lost: Small  #: among many tables of others

    @property
    def bytes_for_further_job(self) -> float:
        return (self.peaks.at_once - self.peaks.tenth) / max(1, self.at_once.jobs - 1)


def ratio(measured: list[float], base: list[float]) -> float:
    """Median of the rounds' own ratios: what slows a whole round down does not change it."""
    return median(one / other for one, other in zip(measured, base, strict=True))
