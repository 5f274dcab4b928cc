"""Removes from the spool what no job needs any more: a duty of the exporters.

A prefix stays while its fence may still be used: the dump's of a job that goes on, and that of the worker
that holds the job. A failed job's dump is kept for a requeue; when it goes, its parts in the chat do.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from shared.contracts.errors import Unavailable
from shared.contracts.job import Status
from shared.runtime.aside import Aside
from shared.storage.condemned import Condemned, JobState, Removed, SpoolSeen, condemned, look, remove
from shared.storage.database import Database
from shared.storage.spool import Spool

KINDS = ("prefixes", "folders", "parts")

#: Failed jobs in one round whose parts are given up.
_AT_MOST = 500
_BATCH = 1000

_STATES = """
    SELECT id, status, fence, dump_fence,
           coalesce(finished_at < now() - make_interval(secs => $2), false) AS past_keeping
      FROM control_plane.jobs WHERE id = ANY($1::uuid[])
"""

SUPERSEDE = """
    UPDATE control_plane.backup_parts SET status = 'superseded', superseded_at = now()
     WHERE status IN ('planned', 'sending', 'sent')
       AND job_id = ANY(ARRAY(
           SELECT job.id
             FROM control_plane.jobs AS job
            CROSS JOIN LATERAL (
                  SELECT FROM control_plane.backup_parts AS part
                   WHERE part.job_id = job.id AND part.status IN ('planned', 'sending', 'sent')
                   LIMIT 1) AS some_part
            WHERE job.status = 'failed' AND job.finished_at < now() - make_interval(secs => $1)
            LIMIT $2
              FOR UPDATE OF job SKIP LOCKED))
    RETURNING job_id
"""

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sweeper:
    database: Database
    spool: Spool
    keep_seconds: float  #: how long a failed job's dump is kept
    disk: Aside = field(default_factory=lambda: Aside("spool"))

    async def __call__(self) -> Mapping[str, int]:
        """Raises Unavailable when the folder is not the spool, cannot be used, or does not answer."""
        parts = await self._give_up_parts()
        seen = await self._on_disk(partial(look, self.spool.root))
        await self._require_own(seen)
        removed = await self._remove(await self._condemned(seen))
        counts = {"prefixes": removed.prefixes, "folders": removed.folders, "parts": parts}
        if any(counts.values()):
            log.info("the spool is swept", **counts)
        return counts

    async def _give_up_parts(self) -> int:
        """Before the files go: who requeues the job now must see that its dump is not to be sent on."""
        async with self.database.session() as session:
            return len(await session.executor.fetch(SUPERSEDE, self.keep_seconds, _AT_MOST))

    async def _require_own(self, seen: SpoolSeen) -> None:
        """In another's spool all jobs are unknown to our database. Raises Unavailable."""
        async with self.database.session() as session:
            marker: UUID | None = await session.executor.fetchval("SELECT marker FROM control_plane.spool")
        if seen.marker is None or seen.marker != str(marker):
            raise Unavailable("spool", "The folder at SPOOL_URL is not the spool: its marker is another.")

    async def _condemned(self, seen: SpoolSeen) -> list[Condemned]:
        keep_since = time.time() - self.keep_seconds
        states = await self._states([folder.job_id for folder in seen.jobs])
        judged = (condemned(folder, states.get(folder.job_id), keep_since=keep_since) for folder in seen.jobs)
        return [one for one in judged if one]

    async def _states(self, ids: Sequence[UUID]) -> Mapping[UUID, JobState]:
        states: dict[UUID, JobState] = {}
        async with self.database.session() as session:
            for start in range(0, len(ids), _BATCH):
                batch = list(ids[start : start + _BATCH])
                for record in await session.executor.fetch(_STATES, batch, self.keep_seconds):
                    states[record["id"]] = JobState(
                        Status(record["status"]),
                        record["fence"],
                        record["dump_fence"],
                        past_keeping=record["past_keeping"],
                    )
        return states

    async def _remove(self, condemned: Sequence[Condemned]) -> Removed:
        keep_since = time.time() - self.keep_seconds
        return await self._on_disk(partial(remove, self.spool.root, condemned, keep_since=keep_since))

    async def _on_disk(self, call: Callable[[], Result]) -> Result:
        try:
            return await self.disk(call)
        except OSError as error:
            raise Unavailable("spool", f"The spool cannot be swept: {error.strerror or error}.") from error
