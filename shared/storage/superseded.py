"""Documents in the chat that are to be deleted: part rows that are `superseded`.

The uploader's duty reads and marks them. What it does between reading and marking may be done twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from shared.storage.database import Database
from shared.storage.suspected import SUSPECT

# The wall behind the fences: what a live backup names is never deleted, whatever its rows say.
_NO_BACKUP = """
    NOT EXISTS (SELECT FROM control_plane.backups AS backup
                 WHERE backup.job_id = part.job_id AND backup.dump_fence = part.dump_fence
                   AND backup.status NOT IN ('expiring', 'deleted', 'remote_remains'))
"""

_WAITING = f"""
    SELECT job_id, dump_fence, kind, index, chat_id, message_id
      FROM control_plane.backup_parts AS part
     WHERE status = 'superseded' AND bot_id = $1 AND message_id IS NOT NULL AND {_NO_BACKUP}
"""

# Those that will soon be too old come first.
YOUNG = f"""
    {_WAITING} AND sent_at > now() - make_interval(secs => $2)
     ORDER BY sent_at, job_id, kind, index LIMIT $3 OFFSET $4
"""

OLD = f"""
    {_WAITING} AND sent_at <= now() - make_interval(secs => $2)
     ORDER BY superseded_at, job_id, kind, index LIMIT $3
"""

# Of a file whose sender died: nobody else writes to its set, and its last statement makes the backup.
ABANDONED = """
    UPDATE control_plane.backup_parts SET status = 'superseded', superseded_at = now()
     WHERE status IN ('planned', 'sending', 'sent') AND dump_fence = 0
       AND job_id = ANY(ARRAY(
           SELECT job_id FROM control_plane.backup_parts AS part
            WHERE dump_fence = 0 AND status IN ('planned', 'sending', 'sent')
              AND NOT EXISTS (SELECT FROM control_plane.backups AS backup WHERE backup.job_id = part.job_id)
              AND NOT EXISTS (SELECT FROM control_plane.jobs AS job WHERE job.id = part.job_id)
            GROUP BY job_id
           HAVING max(greatest(planned_at, sending_at, sent_at)) < now() - make_interval(secs => $1)))
"""

# A call that was never answered has no message id: its document, if there is one, is suspected.
WITHOUT_MESSAGE = f"""
    WITH before AS (
        UPDATE control_plane.backup_parts SET status = 'deleted', removed_at = now()
         WHERE status = 'superseded' AND message_id IS NULL
        RETURNING *
    )
    {SUSPECT} WHERE sending_at IS NOT NULL
"""

MARK = """
    UPDATE control_plane.backup_parts SET status = $5, removed_at = now()
     WHERE job_id = $1 AND dump_fence = $2 AND kind = $3 AND index = $4 AND status = 'superseded'
"""


#: Longer than any wait of a sender that lives.
ABANDONED_SECONDS: Final = 24 * 3600.0


class Removed(StrEnum):
    DELETED = "deleted"  #: also what a tombstone has replaced
    REMOTE_REMAINS = "remote_remains"  #: Telegram lets us do neither


@dataclass(frozen=True, slots=True)
class Superseded:
    job_id: UUID
    dump_fence: int
    kind: str
    index: int
    chat_id: int
    message_id: int


@dataclass(frozen=True, slots=True)
class SupersededParts:
    database: Database
    bot_id: int  #: a bot can delete only what it sent itself

    async def young(self, limit: int, *, younger_than: float, skipped: int) -> Sequence[Superseded]:
        """Those that Telegram took less than so many seconds ago, without the first ones."""
        return await self._waiting(YOUNG, younger_than, limit, skipped)

    async def old(self, limit: int, *, younger_than: float) -> Sequence[Superseded]:
        """The others; those first that have waited longest."""
        return await self._waiting(OLD, younger_than, limit)

    async def supersede_abandoned(self) -> None:
        """Sets of files that were never recorded, and that nobody has written to for a day."""
        async with self.database.session() as session:
            await session.executor.execute(ABANDONED, ABANDONED_SECONDS)

    async def settle_unanswered(self) -> int:
        """Rows without a message have nothing to delete; returns how many sends are suspected by it."""
        async with self.database.session() as session:
            done = await session.executor.execute(WITHOUT_MESSAGE)
        return int(done.rpartition(" ")[2])

    async def mark(self, parts: Sequence[Superseded], removed: Removed) -> None:
        rows = [(part.job_id, part.dump_fence, part.kind, part.index, removed.value) for part in parts]
        async with self.database.session() as session:
            await session.executor.executemany(MARK, rows)

    async def _waiting(self, statement: str, *arguments: float) -> Sequence[Superseded]:
        async with self.database.session() as session:
            records = await session.executor.fetch(statement, self.bot_id, *arguments)
        return [Superseded(**record) for record in records]
