"""Kills of uploaders, and nothing else: at random, and at each step of an upload.

For a step there is a dump of its own: its job is stopped there, and whoever has it is killed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox.chaos.evidence import Killed
from sandbox.chaos.fault import UPLOADERS, Fault
from sandbox.chaos.fleet import UPLOAD_ATTEMPTS
from sandbox.chaos.servers import connected
from sandbox.chaos.upload_steps import Document, UploadSteps
from shared.storage.parts import Kind

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from sandbox.chaos.fleet import Fleet
    from sandbox.chaos.plan import PlannedFault
    from sandbox.chaos.planting import Planting
    from sandbox.chaos.servers import Servers
    from sandbox.chaos.timeline import Timeline
    from sandbox.planted import Planted

_REACHED_SECONDS: Final = 10.0
_MOST_PARTS: Final = 3
#: Of the dead whose leases lapse by themselves; the others' are over at once, so that a seed is short.
_UNMISSED_SHARE: Final = 0.2
_ENDED_SHARE: Final = 0.5

#: What a process has in hand: its jobs, and of each the document whose call is under way.
_IN_HAND: Final = """
    SELECT job.id, part.sha256
      FROM control_plane.jobs AS job
      LEFT JOIN control_plane.backup_parts AS part
             ON part.job_id = job.id AND part.dump_fence = job.dump_fence AND part.status = 'sending'
     WHERE job.owner LIKE $1
"""
_LAPSE: Final = (
    "UPDATE control_plane.jobs SET lease_until = now() WHERE owner LIKE $1 AND lease_until > now()"
)


#: As if the time had passed after which leases of the dead, and what they claimed to publish, are over.
_MISS_ALL: Final = """
    UPDATE control_plane.jobs SET lease_until = now()
     WHERE lease_until > now() AND NOT owner LIKE ANY ($1)
"""
_PUBLISH_NOW: Final = """
    UPDATE control_plane.outbox SET run_after = now() WHERE sent_at IS NULL AND run_after > now()
"""


@dataclass(slots=True)
class Kills:
    """One at a time: what is held for one step would keep another from its own."""

    fleet: Fleet
    servers: Servers
    timeline: Timeline
    planting: Planting
    under_way: Counter[str] = field(default_factory=Counter)  #: calls at a kill, by the document's SHA-256
    cut_short: Counter[UUID] = field(default_factory=Counter)  #: attempts that a kill ended, by job
    queues_deleted_at: list[float] = field(default_factory=list)  #: none
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    _to_come: int = 0

    async def run(self, faults: tuple[PlannedFault, ...]) -> None:
        self._to_come = len(faults)
        async with asyncio.TaskGroup() as group:
            for planned in faults:
                group.create_task(self._at(planned))

    async def heal(self) -> None:
        """Who is dead is missed now, so that a seed is short."""
        self._start(UPLOADERS[0])
        alive = [f"%:{pid}" for pid in self.fleet.pids]
        async with connected(self.fleet.stack.database_url) as look:
            await look.execute(_MISS_ALL, alive)
            await look.execute(_PUBLISH_NOW)

    @property
    def killed(self) -> Killed:
        return Killed(self.under_way, self.cut_short, UPLOAD_ATTEMPTS)

    async def _at(self, planned: PlannedFault) -> None:
        await asyncio.sleep(max(0.0, planned.at - self.timeline.now))
        async with self._one, connected(self.fleet.stack.database_url) as look:
            kill = self._anywhere if planned.fault is Fault.KILL else self._at_step
            victim = await kill(planned, look)
            self._to_come -= 1
        if victim is not None:
            await asyncio.sleep(planned.seconds)
            self._start(victim)

    def _start(self, name: str) -> None:
        """A start costs more than all uploads: who lives is enough when no kill is to come."""
        if self._to_come or not self.fleet.pids:
            self.fleet.start(name)

    async def _anywhere(self, planned: PlannedFault, look: asyncpg.Connection) -> str | None:
        victim = planned.victim or ""
        if not self.fleet.runs(victim):
            victim = next(iter(self.fleet.names), "")
        pid = await self._kill(victim, look)
        if pid is None:
            return None
        self.timeline.happened(planned.fault, victim)
        await self._miss(planned, pid, look)
        return victim

    async def _at_step(self, planned: PlannedFault, look: asyncpg.Connection) -> str | None:
        planted = await self.planting.make(f"step-{planned.number}", 1 + int(planned.share * _MOST_PARTS))
        try:
            async with asyncio.timeout(_REACHED_SECONDS), AsyncExitStack() as held:
                steps = UploadSteps(
                    self.fleet, self.servers, self.planting, planted, look, held, _part_of(planted, planned)
                )
                stopped = await steps.reach(planned.fault)
                pid = await self._kill(stopped.victim, look)
                if stopped.session is not None and _digit(planned, 2) < _ENDED_SHARE:
                    await look.execute("SELECT pg_terminate_backend($1)", stopped.session)
        except TimeoutError:
            self.timeline.say(f"the step {planned.fault.value} was not reached")
            return None
        finally:
            await self.planting.hand_over(planted)
        if pid is None:
            return None
        self.timeline.happened(planned.fault, stopped.victim)
        await self._miss(planned, pid, look)
        return stopped.victim

    async def _kill(self, name: str, look: asyncpg.Connection) -> int | None:
        """Its process id, None if it does not run."""
        service = self.fleet.service(name)
        if service is None or not self.fleet.kill(name):
            return None
        in_hand = await look.fetch(_IN_HAND, f"%:{service.child.pid}")
        self.under_way.update(row["sha256"] for row in in_hand if row["sha256"])
        return service.child.pid

    async def _miss(self, planned: PlannedFault, pid: int, look: asyncpg.Connection) -> None:
        """All that it had asked the server for is done by now, or never will be."""
        self.cut_short.update({row["id"] for row in await look.fetch(_IN_HAND, f"%:{pid}")})
        if _digit(planned, 3) >= _UNMISSED_SHARE:
            await look.execute(_LAPSE, f"%:{pid}")


def _part_of(planted: Planted, planned: PlannedFault) -> Document:
    """Any of its parts."""
    return Document(Kind.PART, int(_digit(planned, 1) * len(planted.dump.parts)))


def _digit(planned: PlannedFault, place: int) -> float:
    """Further numbers between 0 and 1, out of the planned one."""
    return float(planned.share * 100**place % 1)
