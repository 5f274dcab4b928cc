"""Jobs in `control_plane.jobs`: every transition is one compare-and-set.

Workers claim, renew and end; requests are in `shared.storage.requests`. A write that quotes a fence
raises `LeaseLost` when the fence has moved on or a cancel was asked for: the caller deletes its output and
changes nothing more. Only `stored` wins against a cancel: then everything is in the chat.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from shared.contracts.errors import LeaseLost
from shared.contracts.job import HALVES, Claim, ExportOptions, Priority, Rank, Stage, StageGroup, Status
from shared.contracts.manifest import Dump, DumpRecord
from shared.storage.executor import Executor

# Best eligible job by (priority, the project whose last start is oldest, run_after). A pending job whose
# project already runs one is not eligible; the unique index settles what two claims decide at once.
_CLAIM = """
    WITH candidate AS (
        SELECT job.id
          FROM control_plane.jobs AS job
         WHERE job.status IN ('pending', 'running')
           AND job.stage IN ($1, $2)
           AND (job.lease_until IS NULL OR job.lease_until < now())
           AND job.run_after <= now()
           AND job.cancel_requested_at IS NULL
           AND (job.status = 'running' OR NOT EXISTS (
                   SELECT FROM control_plane.jobs AS other
                    WHERE other.project_id = job.project_id AND other.status = 'running'))
           AND ($6::int IS NULL OR $6 > (
                   SELECT count(*) FROM control_plane.jobs AS held
                    WHERE held.status = 'running' AND held.stage = $2 AND held.lease_until >= now()))
         ORDER BY job.priority,
                  (SELECT max(other.claimed_at) FROM control_plane.jobs AS other
                    WHERE other.project_id = job.project_id) NULLS FIRST,
                  job.run_after
         LIMIT 1
           FOR UPDATE OF job SKIP LOCKED)
    UPDATE control_plane.jobs AS job
       SET status = 'running', stage = $2, owner = $3, fence = fence + 1,
           lease_until = now() + make_interval(secs => $4),
           dump_attempts = dump_attempts + ($5 = 'dump')::int,
           upload_attempts = upload_attempts + ($5 = 'upload')::int,
           started_at = coalesce(started_at, now()), claimed_at = now(), revision = revision + 1
      FROM candidate
     WHERE job.id = candidate.id
    RETURNING job.*
"""

# Key space 3. A count is exact only if nobody else counts at the same time. A process that freezes before its
# next statement must not keep all others from claiming: the server ends such a session after 5 s.
CLAIM_ALONE = """
    SELECT pg_advisory_xact_lock(3, 0), set_config('idle_in_transaction_session_timeout', '5s', true)
"""

_RENEW = """
    UPDATE control_plane.jobs
       SET lease_until = now() + make_interval(secs => $3), progress = coalesce($4, progress)
     WHERE id = $1 AND fence = $2 AND lease_until > now() AND cancel_requested_at IS NULL
"""

_DUMPED = """
    UPDATE control_plane.jobs
       SET stage = 'dumped', dump_fence = fence, dump = $3, dumped_at = now(), progress = NULL,
           owner = NULL, lease_until = NULL, run_after = now(),
           error_code = NULL, error_message = NULL, revision = revision + 1
     WHERE id = $1 AND fence = $2 AND lease_until > now() AND cancel_requested_at IS NULL
"""

_STORED = """
    UPDATE control_plane.jobs
       SET status = 'completed', stage = 'stored', backup_id = $3, finished_at = now(), progress = NULL,
           owner = NULL, lease_until = NULL,
           error_code = NULL, error_message = NULL, revision = revision + 1
     WHERE id = $1 AND fence = $2 AND lease_until > now()
"""

# Back to where the same half begins ($3), or to where the dump begins. With $7 the attempt is given back to
# that half: then it was no failure, no time of one is noted, and it keeps its rank: it did not start.
# Without a code the last error stays. A dump that was made and lost begins with fresh attempts: those at the
# upload limit how often that may happen.
_RETRY = """
    UPDATE control_plane.jobs
       SET stage = $3,
           run_after = CASE WHEN $7::text IS NULL THEN now() + make_interval(secs => $4) ELSE run_after END,
           dump_attempts = CASE WHEN stage = 'uploading' AND $3 = 'queued' THEN 0
                                ELSE dump_attempts - ($7 IS NOT DISTINCT FROM 'dump')::int END,
           upload_attempts = upload_attempts - ($7 IS NOT DISTINCT FROM 'upload')::int,
           error_code = coalesce($5, error_code), error_message = coalesce($6, error_message),
           first_failed_at = coalesce(first_failed_at, CASE WHEN $7 IS NULL THEN now() END),
           last_failed_at = CASE WHEN $7 IS NULL THEN now() ELSE last_failed_at END,
           claimed_at = CASE WHEN $7 IS DISTINCT FROM 'dump' THEN claimed_at END,
           progress = NULL, owner = NULL, lease_until = NULL, revision = revision + 1
     WHERE id = $1 AND fence = $2 AND lease_until > now() AND cancel_requested_at IS NULL
"""

_FAILED = """
    UPDATE control_plane.jobs
       SET status = 'failed', finished_at = now(), error_code = $3, error_message = $4,
           first_failed_at = coalesce(first_failed_at, now()), last_failed_at = now(), progress = NULL,
           dump_attempts = CASE $5 WHEN 'dump' THEN $6 ELSE dump_attempts END,
           upload_attempts = CASE $5 WHEN 'upload' THEN $6 ELSE upload_attempts END,
           owner = NULL, lease_until = NULL, revision = revision + 1
     WHERE id = $1 AND fence = $2 AND lease_until > now() AND cancel_requested_at IS NULL
    RETURNING *
"""

_FIND = "SELECT * FROM control_plane.jobs WHERE id = $1"

_LIST = """
    SELECT * FROM control_plane.jobs
     WHERE ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR status = $2)
     ORDER BY created_at DESC, id
     LIMIT $3
"""

_COUNTS = """
    SELECT stage, count(*) AS jobs FROM control_plane.jobs
     WHERE status IN ('pending', 'running') GROUP BY stage
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One row, as readers see it."""

    id: UUID
    project_id: str
    status: Status
    stage: Stage
    options: ExportOptions
    fence: int
    dump_fence: int | None
    dump_attempts: int
    upload_attempts: int
    replay_count: int
    dump: DumpRecord | None
    progress: Mapping[str, int] | None
    backup_id: UUID | None
    error_code: str | None
    error_message: str | None
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    run_after: datetime
    created_at: datetime
    started_at: datetime | None
    dumped_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    command: bytes
    traceparent: str | None


class Jobs:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.waits_for_dump = False
        self.waits_for_upload = False

    async def claim(
        self, group: StageGroup, *, owner: str, lease_seconds: float, at_most: int | None = None
    ) -> Claim | None:
        """Take the best eligible job of this half, or None.

        With `at_most` also None while so many jobs of this half are held, by whichever process. All exporters
        dump from one server, so that is the cap of the server. It is counted here, and no lock is taken on
        the server itself, because then a job that finds no place there is not begun at all: it loses neither
        attempt nor rank, nothing is handed back and tried again, and when a place is free the best job of
        that moment has it.

        Two claims may both choose a pending job of one project; the loser chooses again, for its failure
        came after the other's commit.
        """
        half = HALVES[group]
        arguments = (half.waiting, half.held, owner, lease_seconds, group.value, at_most)
        while True:
            before = time.monotonic()
            try:
                record = await self._claimed(*arguments, alone=at_most is not None)
            except asyncpg.UniqueViolationError:
                continue
            return claim_of(record, group, lease_seconds=lease_seconds, renewed_at=before) if record else None

    async def _claimed(self, *arguments: object, alone: bool) -> asyncpg.Record | None:
        if not alone:
            return await self._executor.fetchrow(_CLAIM, *arguments)
        async with self._executor.transaction():
            await self._executor.execute(CLAIM_ALONE)
            return await self._executor.fetchrow(_CLAIM, *arguments)

    async def renew(self, claim: Claim, *, progress: Mapping[str, int] | None = None) -> None:
        """Lengthen the lease by its full time, counted on the database's clock."""
        await self._fenced(
            _RENEW, claim.job_id, claim.fence, claim.lease_seconds, dict(progress) if progress else None
        )

    async def dumped(self, claim: Claim, dump: Dump) -> None:
        """Record the dump, whose spool prefix carries this fence, and let an uploader have the job."""
        record = DumpRecord.model_validate(dump.model_dump()).model_dump(mode="json")
        await self._fenced(_DUMPED, claim.job_id, claim.fence, record)
        self.waits_for_upload = self.waits_for_dump = True  # there is a place on the server again

    async def stored(self, claim: Claim, *, backup_id: UUID) -> None:
        await self._fenced(_STORED, claim.job_id, claim.fence, backup_id)
        self.waits_for_dump = True  # the project is free again

    async def retry(
        self,
        claim: Claim,
        *,
        stage: Stage,
        delay_seconds: float,
        code: str | None,
        sentence: str | None,
        give_back: bool = False,
    ) -> None:
        """Put the job back to `stage` until the delay has passed; `give_back` returns the attempt."""
        returned = claim.group.value if give_back else None
        await self._fenced(
            _RETRY, claim.job_id, claim.fence, stage.value, delay_seconds, code, sentence, returned
        )
        self.waits_for_dump = stage is Stage.QUEUED
        self.waits_for_upload = stage is Stage.DUMPED

    async def failed(self, claim: Claim, *, code: str, sentence: str) -> Job:
        """Give the job up after `claim.attempts` of this half."""
        record = await self._executor.fetchrow(
            _FAILED, claim.job_id, claim.fence, code, sentence, claim.group.value, claim.attempts
        )
        if record is None:
            raise LeaseLost
        self.waits_for_dump = True
        return job_of(record)

    async def find(self, job_id: UUID) -> Job | None:
        record = await self._executor.fetchrow(_FIND, job_id)
        return job_of(record) if record else None

    async def list(
        self, *, project_id: str | None = None, status: Status | None = None, limit: int = 50
    ) -> list[Job]:
        """The newest first."""
        return [job_of(record) for record in await self._executor.fetch(_LIST, project_id, status, limit)]

    async def counts(self) -> dict[Stage, int]:
        """Jobs that have not ended, by stage."""
        return {Stage(record["stage"]): record["jobs"] for record in await self._executor.fetch(_COUNTS)}

    async def _fenced(self, statement: str, *arguments: object) -> None:
        if await self._executor.execute(statement, *arguments) != "UPDATE 1":
            raise LeaseLost


def job_of(record: asyncpg.Record) -> Job:
    return Job(
        id=record["id"],
        project_id=record["project_id"],
        status=Status(record["status"]),
        stage=Stage(record["stage"]),
        options=_options(record),
        fence=record["fence"],
        dump_fence=record["dump_fence"],
        dump_attempts=record["dump_attempts"],
        upload_attempts=record["upload_attempts"],
        replay_count=record["replay_count"],
        dump=DumpRecord.model_validate(record["dump"]) if record["dump"] else None,
        progress=record["progress"],
        backup_id=record["backup_id"],
        error_code=record["error_code"],
        error_message=record["error_message"],
        first_failed_at=record["first_failed_at"],
        last_failed_at=record["last_failed_at"],
        run_after=record["run_after"],
        created_at=record["created_at"],
        started_at=record["started_at"],
        dumped_at=record["dumped_at"],
        finished_at=record["finished_at"],
        cancel_requested_at=record["cancel_requested_at"],
        command=record["command"],
        traceparent=record["traceparent"],
    )


def _options(record: asyncpg.Record) -> ExportOptions:
    return ExportOptions(
        project_id=record["project_id"],
        format=record["format"],
        compression=record["compression"],
        priority=Priority[Rank(record["priority"]).name],
        filename=record["filename"],
        caption=record["caption"],
        storage_path=record["storage_path"],
        expires_in_days=record["expires_in_days"],
    )


def claim_of(record: asyncpg.Record, group: StageGroup, *, lease_seconds: float, renewed_at: float) -> Claim:
    return Claim(
        job_id=record["id"],
        project_id=record["project_id"],
        group=group,
        fence=record["fence"],
        attempts=record[f"{group.value}_attempts"],
        dump_fence=record["dump_fence"],
        options=_options(record),
        created_at=record["created_at"],
        traceparent=record["traceparent"],
        lease_seconds=lease_seconds,
        renewed_at=renewed_at,
    )
