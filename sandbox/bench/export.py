"""`./run bench export`: what is measured, in which order.

What is compared is alternated in one run on the same data: a busy machine then slows all alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sandbox.bench.figures import FC, LIMIT, PGFERRY, AtOnce, Figures, Peaks, Rounds, Small, Whole
from sandbox.bench.machine import dump_versions, machine_facts
from sandbox.bench.plant import open_plant
from sandbox.bench.rivals import PgDump
from sandbox.bench.stages import stage_seconds
from sandbox.tenants import create_crowd, create_large_tenant

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from sandbox.bench.plant import Exporter, Plant
    from sandbox.narration import Narration

WHOLE, TEN_TIMES, SMALL, LOST = "whole", "ten-times", "small", "lost"

Run = Callable[[], Awaitable[float]]
"""Does one thing once and says how many seconds it took."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the bench; the fields are its options."""

    megabytes: int
    rounds: int
    jobs: int
    tables: int
    large: bool
    narration: Narration

    async def __call__(self) -> Figures:
        async with open_plant() as plant:
            machine = await machine_facts(plant.owner, dump_versions(plant.client))
            await self._fill(plant)
            async with plant.exporter() as exporter:
                start = exporter.peak_bytes()
                at_once, tenth, together = await self._at_once(exporter)
                small = await self._small(plant, exporter, SMALL)
            async with plant.exporter(crowded=True) as exporter:
                lost = await self._small(plant, exporter, LOST)
            plain = plant.stack.directory / "plain.sql"
            whole, peak = await self._whole(plant, plain)
            ten_times = await self._ten_times(plant) if self.large else None
            return Figures(
                machine=machine,
                megabytes=self.megabytes,
                tenth_megabytes=self._tenth_megabytes,
                tables=self.tables,
                whole=whole,
                stages=await self._stages(plain, plant.stack.keys.recipient),
                at_once=at_once,
                peaks=Peaks(start, tenth=tenth, whole=peak, at_once=together, ten_times=ten_times),
                small=small,
                lost=lost,
            )

    async def _fill(self, plant: Plant) -> None:
        sizes = dict.fromkeys(self._tenths, self._tenth_megabytes)
        sizes |= {WHOLE: self.megabytes, SMALL: 1}
        if self.large:
            sizes[TEN_TIMES] = self.megabytes * 10
        with self.narration.step(f"tenants of {', '.join(f'{size} MB' for size in sizes.values())}"):
            for slug, size in sizes.items():
                await plant.add_tenant(slug, partial(create_large_tenant, slug=slug, megabytes=size))
        with self.narration.step(f"a tenant of 1 MB among {self.tables:,} tables of others"):
            await plant.add_tenant(LOST, partial(_lost_in_crowd, tables=self.tables), crowded=True)
            await plant.settle()

    async def _at_once(self, exporter: Exporter) -> tuple[AtOnce, int, int]:
        """Seconds, and the process's peak memory after one job and after several."""
        with self.narration.step(f"{self.jobs} jobs at once, {self.rounds} rounds"):
            await exporter.export(self._tenths[0])
            peak_of_one = exporter.peak_bytes()
            runs = {
                "one": partial(exporter.export, self._tenths[0]),
                "all": partial(exporter.export, *self._tenths),
            }
            rounds = await alternated(self.rounds, runs)
        return AtOnce(self.jobs, rounds["one"], rounds["all"]), peak_of_one, exporter.peak_bytes()

    async def _small(self, plant: Plant, exporter: Exporter, slug: str) -> Small:
        pg_dump = PgDump(plant, slug, crowded=slug == LOST)
        ours = partial(exporter.export, slug)
        with self.narration.step(f"a small tenant ({slug}), {self.rounds} rounds"):
            await alternated(1, {"pg_dump": pg_dump, "pgferry": ours})
            seconds = await alternated(self.rounds, {"pg_dump": pg_dump, "pgferry": ours})
        return Small(seconds["pg_dump"], seconds["pgferry"])

    async def _whole(self, plant: Plant, plain: Path) -> tuple[Whole, int]:
        limit = PgDump(plant, WHOLE)
        async with plant.exporter() as exporter:
            ours = partial(exporter.export, WHOLE)
            with self.narration.step("one discarded round, which fills the page cache"):
                await limit.store(plain)
                await ours()
            plain_bytes = (await asyncio.to_thread(plain.stat)).st_size
            runs: dict[str, Run] = {
                LIMIT: limit,
                PGFERRY: ours,
                "`pg_dump \\| zstd -3`": PgDump(plant, WHOLE, through=("zstd", "-3", "-q", "-c")),
                "`pg_dump \\| gzip`": PgDump(plant, WHOLE, through=("gzip", "-c")),
                FC: PgDump(plant, WHOLE, form="custom"),
            }
            before = exporter.cpu_seconds()
            with self.narration.step(f"{plain_bytes / 1e6:.0f} MB, {self.rounds} rounds"):
                seconds = await alternated(self.rounds, runs)
            used = (exporter.cpu_seconds() - before) / self.rounds
            return Whole(plain_bytes, seconds, cpu_seconds=used), exporter.peak_bytes()

    async def _stages(self, plain: Path, recipient: str) -> Rounds:
        with self.narration.step(f"processor time of each stage, {self.rounds} rounds"):
            passes = [await stage_seconds(plain, recipient=recipient) for _ in range(self.rounds)]
        return {stage: [seconds[stage] for seconds in passes] for stage in passes[0]}

    async def _ten_times(self, plant: Plant) -> int:
        with self.narration.step(f"peak memory at {self.megabytes * 10} MB"):
            async with plant.exporter() as exporter:
                await exporter.export(TEN_TIMES)
                return exporter.peak_bytes()

    @property
    def _tenth_megabytes(self) -> int:
        return max(1, self.megabytes // 10)

    @property
    def _tenths(self) -> list[str]:
        return [f"tenth-{number}" for number in range(1, self.jobs + 1)]


async def alternated(rounds: int, runs: Mapping[str, Run]) -> Rounds:
    """All of them in turn, again and again, each time another one first."""
    seconds: Rounds = {name: [] for name in runs}
    for turn in range(rounds):
        names = list(runs)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(await runs[name]())
    return seconds


async def _lost_in_crowd(connection: asyncpg.Connection, *, tables: int) -> None:
    await create_crowd(connection, tables=tables)
    await create_large_tenant(connection, slug=LOST, megabytes=1)
