"""Ends backups whose time is over: a duty of the uploader, and `pgferry backups expire` and `delete`.

What is marked `expiring` leaves the catalogue, and its documents are superseded, so that the removal of
`services.uploader.removal` takes them out of the chat, the manifest first. When none is left to be removed
the backup is `deleted`, or `remote_remains` if Telegram kept anything of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from shared.runtime.reconciler import Duty
from shared.storage.database import Database

KINDS: Final = ("expired", "deleted", "remains")
ACTOR: Final = "pgferry expiry"

#: The newest good backup of its kind is kept, however old: better an old one than none.
_NEWER = """
    EXISTS (SELECT FROM control_plane.backups AS newer
             WHERE newer.project_id = old.project_id AND newer.type = old.type AND newer.status = 'stored'
               AND (newer.created_at, newer.id) > (old.created_at, old.id))
"""

DUE = f"""
    SELECT id, project_id, created_at, expires_at, {_NEWER} AS goes
      FROM control_plane.backups AS old
     WHERE status = 'stored' AND expires_at < now() AND ($1::text IS NULL OR project_id = $1)
     ORDER BY expires_at, created_at, id
"""

_SUPERSEDE = """
    UPDATE control_plane.backup_parts AS part SET status = 'superseded', superseded_at = now()
      FROM chosen
     WHERE part.job_id = chosen.job_id AND part.dump_fence = chosen.dump_fence AND part.status = 'sent'
"""

# One decision at a time: while one takes the newest by a word of its own, none takes what is then the last.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('pgferry expiry', 0))"

EXPIRE = f"""
    WITH chosen AS (
        UPDATE control_plane.backups SET status = 'expiring', expiring_at = now(), revision = revision + 1
         WHERE id = ANY(ARRAY(
               SELECT id FROM control_plane.backups AS old
                WHERE status = 'stored' AND expires_at < now() AND ($1::text IS NULL OR project_id = $1)
                  AND {_NEWER}
                ORDER BY expires_at
                LIMIT $2
                  FOR UPDATE SKIP LOCKED))
           AND status = 'stored'
        RETURNING id, project_id, job_id, dump_fence, created_at, expires_at
    ), parts AS ({_SUPERSEDE}), audit AS (
        INSERT INTO control_plane.audit_log (actor, action, project_id, job_id, backup_id, detail)
        SELECT $3, 'backup.expire', project_id, job_id, id, jsonb_build_object('expires_at', expires_at)
          FROM chosen
    )
    SELECT id, project_id, created_at, expires_at, true AS goes FROM chosen
     ORDER BY expires_at, created_at, id
"""

# Whoever asks for one by name may, by a word of his own, also take the newest.
DISCARD = f"""
    WITH chosen AS (
        UPDATE control_plane.backups AS old
           SET status = 'expiring', expiring_at = now(), revision = revision + 1
         WHERE id = $1 AND status = 'stored' AND ($2 OR {_NEWER})
        RETURNING id, project_id, job_id, dump_fence
    ), parts AS ({_SUPERSEDE}), audit AS (
        INSERT INTO control_plane.audit_log (actor, action, project_id, job_id, backup_id, detail)
        SELECT $3, 'backup.discard', project_id, job_id, id, jsonb_build_object('even_newest', $2)
          FROM chosen
    )
    SELECT count(*) FROM chosen
"""

# Of a backup without any row nobody knows what was removed: all its documents count as left.
SETTLE = """
    WITH settled AS (
        UPDATE control_plane.backups AS backup
           SET status = CASE WHEN remaining.documents > 0 THEN 'remote_remains' ELSE 'deleted' END,
               deleted_at = now(), revision = revision + 1
          FROM (SELECT id,
                       CASE WHEN count(part.job_id) = 0
                            THEN part_count + (manifest_message_id IS NOT NULL)::int
                            ELSE count(part.job_id) FILTER (WHERE part.status = 'remote_remains')
                       END AS documents
                  FROM control_plane.backups
                  LEFT JOIN control_plane.backup_parts AS part USING (job_id, dump_fence)
                 WHERE backups.status = 'expiring'
                 GROUP BY id
                HAVING count(part.job_id) FILTER (WHERE part.status IN ('sent', 'superseded')) = 0
                 LIMIT $1) AS remaining
         WHERE backup.id = remaining.id AND backup.status = 'expiring'
        RETURNING backup.id, project_id, job_id, backup.status, remaining.documents
    ), audit AS (
        INSERT INTO control_plane.audit_log (actor, action, project_id, job_id, backup_id, detail)
        SELECT $2, 'backup.delete', project_id, job_id, id, jsonb_build_object('documents_left', documents)
          FROM settled
    )
    SELECT count(*) FILTER (WHERE status = 'deleted') AS deleted,
           count(*) FILTER (WHERE status = 'remote_remains') AS remains
      FROM settled
"""

#: Of one round.
_AT_MOST = 100

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Due:
    """A backup whose time is over; it `goes` unless it is the newest good one of its project and type."""

    id: UUID
    project_id: str
    created_at: datetime
    expires_at: datetime
    goes: bool


@dataclass(frozen=True, slots=True)
class Expiry:
    database: Database
    actor: str = ACTOR

    async def __call__(self) -> Mapping[str, int]:
        """One round of the duty."""
        expired = await self.expire()
        async with self.database.session() as session:
            settled = await session.executor.fetchrow(SETTLE, _AT_MOST, self.actor)
        counts = {"expired": len(expired), **dict(settled or {})}
        if any(counts.values()):
            log.info("backups whose time is over", **counts)
        return counts

    async def due(self, project_id: str | None = None) -> Sequence[Due]:
        """All whose time is over, whether they go or not; those that wait longest first."""
        async with self.database.session() as session:
            return [Due(**record) for record in await session.executor.fetch(DUE, project_id)]

    async def expire(self, project_id: str | None = None) -> Sequence[Due]:
        """Mark those that go, and return them; the uploader removes their documents."""
        async with self.database.transaction() as transaction:
            await transaction.executor.execute(LOCK)
            records = await transaction.executor.fetch(EXPIRE, project_id, _AT_MOST, self.actor)
        return [Due(**record) for record in records]

    async def discard(self, backup_id: UUID, *, even_newest: bool = False) -> bool:
        """Mark one, whenever its time is over. False unless it is stored, or for the newest good one."""
        async with self.database.transaction() as transaction:
            await transaction.executor.execute(LOCK)
            return bool(await transaction.executor.fetchval(DISCARD, backup_id, even_newest, self.actor))


def expiry_of(database: Database) -> Duty:
    return Duty("expiry", KINDS, Expiry(database))
