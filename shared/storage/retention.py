"""Forgets what was kept long enough, in batches: a duty of exporters and uploaders.

The gateway, which strangers speak to, has no right to delete history.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import structlog

from shared.runtime.reconciler import Duty
from shared.runtime.settings import WorkerSettings
from shared.storage.database import Database

KINDS = ("outbox", "jobs", "audit", "keys", "suspected")

_DAY_SECONDS = 86400.0

OUTBOX = """
    DELETE FROM control_plane.outbox
     WHERE id = ANY(ARRAY(
           SELECT id FROM control_plane.outbox
            WHERE sent_at < now() - make_interval(secs => $1) ORDER BY sent_at LIMIT $2))
"""

AUDIT = """
    DELETE FROM control_plane.audit_log
     WHERE id = ANY(ARRAY(
           SELECT id FROM control_plane.audit_log
            WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2))
"""

KEYS = """
    DELETE FROM control_plane.idempotency_keys
     WHERE (project_id, key) IN (
           SELECT project_id, key FROM control_plane.idempotency_keys
            WHERE expires_at < now() - make_interval(secs => $1) ORDER BY expires_at LIMIT $2)
"""

# As the audit log: a record of what may lie in a chat, for whoever looks at it.
SUSPECTED = """
    DELETE FROM control_plane.suspected_sends
     WHERE id = ANY(ARRAY(
           SELECT id FROM control_plane.suspected_sends
            WHERE suspected_at < now() - make_interval(secs => $1) ORDER BY id LIMIT $2))
"""

# A page of the jobs that ended long ago, from where the last one stopped: most of them stay, for their
# backups do. A job goes when its backup is not there any more and nothing of it is to be deleted from the
# chat. Its requests and keys go with it; what could not be deleted from the chat stays on record.
JOBS = """
    WITH old AS MATERIALIZED (
        SELECT id, finished_at FROM control_plane.jobs
         WHERE finished_at < now() - make_interval(secs => $1) AND (finished_at, id) > ($3, $4)
         ORDER BY finished_at, id
         LIMIT $2
    ), forgotten AS MATERIALIZED (
        SELECT id FROM control_plane.jobs AS job
         WHERE id = ANY(ARRAY(SELECT id FROM old)) AND status IN ('completed', 'failed', 'cancelled')
           AND NOT EXISTS (SELECT FROM control_plane.backups
                            WHERE job_id = job.id AND status IN ('stored', 'expiring'))
           AND NOT EXISTS (SELECT FROM control_plane.backup_parts
                            WHERE job_id = job.id AND status NOT IN ('deleted', 'remote_remains'))
           FOR UPDATE OF job SKIP LOCKED
    ), parts AS (
        DELETE FROM control_plane.backup_parts
         WHERE job_id = ANY(ARRAY(SELECT id FROM forgotten)) AND status = 'deleted'
    ), gone AS (
        DELETE FROM control_plane.jobs WHERE id = ANY(ARRAY(SELECT id FROM forgotten)) RETURNING id
    )
    SELECT (SELECT count(*) FROM gone) AS gone, finished_at, id
      FROM old ORDER BY finished_at DESC, id DESC
"""

_FIRST_PAGE = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Retention:
    """How many days what is kept; at most `batches` of `batch` rows of each kind in a round."""

    database: Database
    outbox_days: float
    jobs_days: float
    audit_days: float
    batch: int = 500
    batches: int = 10
    _page_after: tuple[datetime, UUID] = field(default=_FIRST_PAGE, init=False)

    async def __call__(self) -> Mapping[str, int]:
        counts = {
            "outbox": await self._forget(OUTBOX, self.outbox_days),
            "jobs": await self._forget_jobs(),
            "audit": await self._forget(AUDIT, self.audit_days),
            "keys": await self._forget(KEYS, 0),
            "suspected": await self._forget(SUSPECTED, self.audit_days),
        }
        if any(counts.values()):
            log.info("what was kept long enough is forgotten", **counts)
        return counts

    async def _forget(self, statement: str, days: float) -> int:
        forgotten = 0
        for _ in range(self.batches):
            async with self.database.session() as session:
                done = await session.executor.execute(statement, days * _DAY_SECONDS, self.batch)
            rows = int(done.removeprefix("DELETE "))
            forgotten += rows
            if rows < self.batch:
                break
        return forgotten

    async def _forget_jobs(self) -> int:
        forgotten = 0
        for _ in range(self.batches):
            async with self.database.session() as session:
                page = await session.executor.fetch(
                    JOBS, self.jobs_days * _DAY_SECONDS, self.batch, *self._page_after
                )
            forgotten += page[0]["gone"] if page else 0
            if len(page) < self.batch:
                self._page_after = _FIRST_PAGE
                break
            self._page_after = page[0]["finished_at"], page[0]["id"]
        return forgotten


def retention_of(database: Database, settings: WorkerSettings) -> Duty:
    retention = Retention(
        database, settings.keep_outbox_days, settings.keep_jobs_days, settings.keep_audit_days
    )
    return Duty("retention", KINDS, retention)
