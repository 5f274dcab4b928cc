"""Jobs whose worker is gone: back to where their half begins, given up, or cancelled as was asked.

A duty of every service, so that a job is not stuck while no exporter or no uploader is there to claim it.
Whatever ends somebody else's lease raises the fence in the same statement.
"""

import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import asyncpg
import structlog

from shared.contracts.errors import AttemptsExhausted
from shared.contracts.job import HALVES, Claim, StageGroup
from shared.contracts.verdict import Dead
from shared.storage.attempts import bury
from shared.storage.database import Database
from shared.storage.jobs import claim_of
from shared.storage.nudges import DUMP, UPLOAD

KINDS = ("released", "buried", "cancelled")

#: Of each kind in one round.
_AT_MOST = 500
#: Between taking a job over and burying it, in one transaction.
_TAKEN_SECONDS = 60.0
_SERVICES = {StageGroup.DUMP: "exporter", StageGroup.UPLOAD: "uploader"}

# After the grace: a live worker claims a lapsed job by itself, and sooner.
_LAPSED = """
           status = 'running' AND stage IN ('dumping', 'uploading') AND cancel_requested_at IS NULL
       AND lease_until < now() - make_interval(secs => $1)
"""
_SPENT = "CASE stage WHEN 'dumping' THEN dump_attempts ELSE upload_attempts END"

RELEASE = f"""
    UPDATE control_plane.jobs
       SET stage = CASE stage WHEN 'dumping' THEN 'queued' ELSE 'dumped' END, fence = fence + 1,
           progress = NULL, owner = NULL, lease_until = NULL, revision = revision + 1
     WHERE id IN (
           SELECT id FROM control_plane.jobs
            WHERE {_LAPSED} AND {_SPENT} < $2
            LIMIT $3
              FOR UPDATE SKIP LOCKED)
    RETURNING stage
"""

TAKE_EXHAUSTED = f"""
    UPDATE control_plane.jobs
       SET fence = fence + 1, owner = $3, lease_until = now() + make_interval(secs => $4)
     WHERE id = (
           SELECT id FROM control_plane.jobs
            WHERE {_LAPSED} AND {_SPENT} >= $2
            LIMIT 1
              FOR UPDATE SKIP LOCKED)
    RETURNING *
"""

FIND_ASKED = """
    SELECT id FROM control_plane.jobs
     WHERE status = 'running' AND cancel_requested_at IS NOT NULL
       AND lease_until < now() - make_interval(secs => $1)
     LIMIT 1
       FOR UPDATE SKIP LOCKED
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reaper:
    database: Database
    attempts: int  #: that each half may take
    grace_seconds: float  #: how long live workers come first

    async def __call__(self) -> Mapping[str, int]:
        return {
            "released": await self._release(),
            "buried": await _counted(self._bury_one),
            "cancelled": await _counted(self._cancel_one),
        }

    async def _release(self) -> int:
        """The attempts stay spent, and a worker that only slept finds its fence gone."""
        async with self.database.session() as session:
            released = await session.executor.fetch(RELEASE, self.grace_seconds, self.attempts, _AT_MOST)
        stages = {record["stage"] for record in released}
        for half, nudge in ((HALVES[StageGroup.DUMP], DUMP), (HALVES[StageGroup.UPLOAD], UPLOAD)):
            if half.waiting in stages:
                self.database.nudges.send(nudge)
        if released:
            log.warning("put back: their workers are gone", jobs=len(released))
        return len(released)

    async def _bury_one(self) -> bool:
        """One transaction: the job is taken over and given up, which is announced."""
        async with self.database.transaction() as transaction:
            record = await transaction.executor.fetchrow(
                TAKE_EXHAUSTED, self.grace_seconds, self.attempts, _owner(), _TAKEN_SECONDS
            )
            if record is None:
                return False
            claim = self._taken(record)
            error = AttemptsExhausted(claim.attempts)
            await bury(transaction, claim, Dead(error.code, error.sentence), service=_SERVICES[claim.group])
        log.warning("given up: its last attempt ended without a word", job_id=str(claim.job_id))
        return True

    def _taken(self, record: asyncpg.Record) -> Claim:
        """The attempt of a worker that died as it said that the others are used up counts for none."""
        group = next(group for group, half in HALVES.items() if half.held == record["stage"])
        claim = claim_of(record, group, lease_seconds=_TAKEN_SECONDS, renewed_at=time.monotonic())
        return replace(claim, attempts=min(claim.attempts, self.attempts))

    async def _cancel_one(self) -> bool:
        async with self.database.transaction() as transaction:
            job_id = await transaction.executor.fetchval(FIND_ASKED, self.grace_seconds)
            if job_id is None:
                return False
            await transaction.cancellations.unheld(job_id)
            await transaction.parts.supersede_all(job_id)
        log.info("cancelled as was asked: its worker is gone", job_id=str(job_id))
        return True


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


async def _counted(step: Callable[[], Awaitable[bool]]) -> int:
    """How often it did something, until it finds nothing more."""
    done = 0
    while done < _AT_MOST and await step():
        done += 1
    return done
