"""The load of a run that is after the uploader: dumps that lie in the spool, of a few small parts each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox.planted import Planted, hand_over, make_dump

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from sandbox.chaos.load import Asked
    from sandbox.chaos.plan import Plan, PlannedDump
    from sandbox.chaos.timeline import Timeline
    from shared.storage.database import Database
    from shared.storage.spool import Spool

_PART_BYTES: Final = 2048

_STATUS: Final = "SELECT status FROM control_plane.jobs WHERE id = $1"


@dataclass(slots=True)
class Planting:
    database: Database
    spool: Spool
    timeline: Timeline
    asked: list[Asked] = field(default_factory=list)  #: nobody asks for an export
    _handed_over: set[UUID] = field(default_factory=set)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, plan: Plan) -> None:
        async with asyncio.TaskGroup() as group:
            for planned in plan.dumps:
                group.create_task(self._at(planned))

    async def make(self, project: str, parts: int) -> Planted:
        """A dump that no uploader may have yet."""
        async with self._one:
            return await make_dump(self.database, self.spool, project, sizes=_sizes(parts))

    async def hand_over(self, planted: Planted) -> None:
        """Once, however often it is said."""
        if planted.claim.job_id in self._handed_over:
            return
        self._handed_over.add(planted.claim.job_id)
        await hand_over(self.database, planted)
        self.timeline.say(f"{planted.claim.project_id}: {len(planted.dump.parts)} parts to send")

    def litter(self, planted: Planted, files: int) -> None:
        """Further files beside the dump's own."""
        for number in range(files):
            (self.folder(planted) / f"litter-{number}").touch()

    def folder(self, planted: Planted) -> Path:
        return self.spool.prefix(planted.claim.job_id, planted.claim.fence).path

    async def status_of(self, job_id: UUID, _project: str) -> str:
        async with self.database.session() as session:
            return str(await session.executor.fetchval(_STATUS, job_id))

    async def _at(self, planned: PlannedDump) -> None:
        await asyncio.sleep(max(0.0, planned.at - self.timeline.now))
        await self.hand_over(await self.make(f"dump-{planned.number}", planned.parts))


def _sizes(parts: int) -> list[int]:
    return [_PART_BYTES - index for index in range(parts)]
