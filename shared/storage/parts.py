"""What was sent to the chat, message by message: `control_plane.backup_parts`.

Every write quotes the worker's fence; a row is `sending` before the call and `sent` after the answer, so
a crash in between is visible as a send whose outcome nobody knows. Such a document is sent again, and the
call before is kept in `control_plane.suspected_sends`: its document may be in the chat, and has no row else.

A set of documents that no job sends (`FileSet`) is written to by the one process that has made its id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

import asyncpg

from shared.contracts.errors import LeaseLost
from shared.contracts.manifest import NO_DUMP, Part, SentPart
from shared.storage.executor import Executor
from shared.storage.suspected import SUSPECT

# The fence of a claim is never 0: what a job has sent is never written to without its lease.
_HELD = """
    (EXISTS (SELECT FROM control_plane.jobs
              WHERE id = $1 AND fence = $2 AND lease_until > now() AND cancel_requested_at IS NULL)
     OR ($2 = 0 AND NOT EXISTS (SELECT FROM control_plane.jobs WHERE id = $1)))
"""

_SUSPECT = f"{SUSPECT} WHERE status = 'sending'"

# A manifest that is made anew has another hash: what may be in the chat is the one before.
_PLAN = f"""
    WITH before AS (
        SELECT row.* FROM control_plane.backup_parts AS row
          JOIN unnest($5::int[], $6::bigint[], $7::text[]) AS plan (index, size_bytes, sha256) USING (index)
         WHERE job_id = $1 AND dump_fence = $3 AND kind = $4 AND kind = 'manifest'
           AND row.sha256 <> plan.sha256 AND {_HELD}
    ), suspected AS ({_SUSPECT})
    INSERT INTO control_plane.backup_parts (job_id, dump_fence, kind, index, size_bytes, sha256)
    SELECT $1, $3, $4, plan.index, plan.size_bytes, plan.sha256
      FROM unnest($5::int[], $6::bigint[], $7::text[]) AS plan (index, size_bytes, sha256)
     WHERE {_HELD}
    ON CONFLICT (job_id, dump_fence, kind, index)
    DO UPDATE SET size_bytes = excluded.size_bytes, sha256 = excluded.sha256, status = 'planned'
            WHERE backup_parts.kind = 'manifest' AND backup_parts.status IN ('planned', 'sending')
              AND backup_parts.sha256 <> excluded.sha256
"""

_ROWS = """
    SELECT * FROM control_plane.backup_parts
     WHERE job_id = $1 AND dump_fence = $2 AND kind = $3 ORDER BY index
"""

_SENDING = f"""
    WITH before AS (
        SELECT * FROM control_plane.backup_parts
         WHERE job_id = $1 AND dump_fence = $3 AND kind = $4 AND index = $5 AND {_HELD}
    ), suspected AS ({_SUSPECT})
    UPDATE control_plane.backup_parts
       SET status = 'sending', sending_at = now(), send_attempts = send_attempts + 1,
           bot_id = $6, chat_id = $7
     WHERE job_id = $1 AND dump_fence = $3 AND kind = $4 AND index = $5
       AND status IN ('planned', 'sending') AND {_HELD}
    RETURNING (SELECT status = 'sending' FROM before) AS again
"""

_NOT_SENT = f"""
    UPDATE control_plane.backup_parts SET status = 'planned', sending_at = NULL
     WHERE job_id = $1 AND dump_fence = $3 AND kind = $4 AND index = $5
       AND status = 'sending' AND {_HELD}
"""

_SENT = f"""
    UPDATE control_plane.backup_parts
       SET status = 'sent', sent_at = now(), message_id = $6, file_id = $7, file_unique_id = $8
     WHERE job_id = $1 AND dump_fence = $3 AND kind = $4 AND index = $5
       AND status = 'sending' AND {_HELD}
"""

_SUPERSEDE_OLDER = """
    UPDATE control_plane.backup_parts SET status = 'superseded', superseded_at = now()
     WHERE job_id = $1 AND dump_fence < $2 AND status IN ('planned', 'sending', 'sent')
"""

_SUPERSEDE_ALL = """
    UPDATE control_plane.backup_parts SET status = 'superseded', superseded_at = now()
     WHERE job_id = $1 AND status IN ('planned', 'sending', 'sent')
"""

_ADD_SENT = """
    INSERT INTO control_plane.backup_parts
        (job_id, dump_fence, kind, index, status, size_bytes, sha256,
         bot_id, chat_id, message_id, file_id, file_unique_id, sent_at)
    SELECT $1, $2, $3, part.index, 'sent', part.size_bytes, part.sha256,
           part.bot_id, part.chat_id, part.message_id, part.file_id, part.file_unique_id, $4
      FROM unnest($5::int[], $6::bigint[], $7::text[],
                  $8::bigint[], $9::bigint[], $10::bigint[], $11::text[], $12::text[])
           AS part (index, size_bytes, sha256, bot_id, chat_id, message_id, file_id, file_unique_id)
    ON CONFLICT (job_id, dump_fence, kind, index) DO NOTHING
"""

# The rows stay locked until the backup that names them is recorded.
_WHOLE = """
    SELECT count(*) FILTER (WHERE status = 'sent')
      FROM (SELECT status FROM control_plane.backup_parts
             WHERE job_id = $1 AND dump_fence = 0 FOR UPDATE) AS locked
"""

_SUPERSEDE_FILE = """
    UPDATE control_plane.backup_parts SET status = 'superseded', superseded_at = now()
     WHERE job_id = $1 AND dump_fence = 0 AND status IN ('planned', 'sending', 'sent')
       AND NOT EXISTS (SELECT FROM control_plane.backups WHERE job_id = $1)
"""

_LOCK_MESSAGE = (
    "SELECT pg_advisory_xact_lock("
    "hashtextextended(format('pgferry message %s %s', $1::bigint, $2::bigint), 0))"
)

_IS_NAMED = """
    SELECT EXISTS (SELECT FROM control_plane.backup_parts
                    WHERE chat_id = $1 AND message_id = $2 AND status <> 'remote_remains')
"""

_OF_BACKUP = """
    SELECT part.* FROM control_plane.backup_parts AS part
      JOIN control_plane.backups AS backup USING (job_id, dump_fence)
     WHERE backup.id = $1 AND part.kind = 'part' ORDER BY index
"""


#: Statuses of a document that is deleted, or to be deleted, from the chat.
GIVEN_UP = frozenset({"superseded", "deleted", "remote_remains"})


class Writer(Protocol):
    """Who may write to a set's rows: a job's `Claim`, or the `FileSet` itself."""

    @property
    def job_id(self) -> UUID: ...
    @property
    def fence(self) -> int: ...
    @property
    def dump_fence(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class FileSet:
    """The documents of one file that an operator sends; nobody else knows its id."""

    job_id: UUID

    @property
    def fence(self) -> int:
        return 0

    @property
    def dump_fence(self) -> int:
        return NO_DUMP


class Kind(StrEnum):
    PART = "part"
    MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class Sent:
    """Where Telegram keeps one document; ids are those of the sending bot."""

    bot_id: int
    chat_id: int
    message_id: int
    file_id: str
    file_unique_id: str


def sent_of(bot_id: int, part: SentPart) -> Sent:
    """As a manifest of this bot's says it."""
    return Sent(bot_id, part.chat_id, part.message_id, part.file_id, part.file_unique_id)


@dataclass(frozen=True, slots=True)
class PartRow:
    part: Part
    status: str
    sent: Sent | None


class Parts:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def plan(self, claim: Writer, kind: Kind, parts: Sequence[Part]) -> Sequence[PartRow]:
        """Write a row for each part that has none, and return all of this set in order.

        A set belongs to one dump: rows of an earlier attempt at the same dump keep what they know.
        """
        await self._executor.execute(
            _PLAN,
            claim.job_id,
            claim.fence,
            claim.dump_fence,
            kind.value,
            [part.index for part in parts],
            [part.size_bytes for part in parts],
            [part.sha256 for part in parts],
        )
        rows = [row_of(record) for record in await self.of(claim.job_id, claim.dump_fence, kind)]
        if len(rows) < len(parts):
            raise LeaseLost
        return rows

    async def of(self, job_id: UUID, dump_fence: int | None, kind: Kind) -> Sequence[asyncpg.Record]:
        return await self._executor.fetch(_ROWS, job_id, dump_fence, kind.value)

    async def sending(self, claim: Writer, kind: Kind, index: int, *, bot_id: int, chat_id: int) -> bool:
        """Say that the call is about to be made. True if nobody knows what became of the one before, which
        is suspected then. Raises LeaseLost when this worker may not make the call.
        """
        document = (claim.job_id, claim.fence, claim.dump_fence, kind.value, index)
        record = await self._executor.fetchrow(_SENDING, *document, bot_id, chat_id)
        if record is None:
            raise LeaseLost
        return bool(record["again"])

    async def not_sent(self, claim: Writer, kind: Kind, index: int) -> None:
        """Say that nothing came of the call, for sure. Raises LeaseLost."""
        await self._fenced(_NOT_SENT, claim.job_id, claim.fence, claim.dump_fence, kind.value, index)

    async def sent(self, claim: Writer, kind: Kind, index: int, *, sent: Sent) -> None:
        await self._fenced(
            _SENT,
            claim.job_id,
            claim.fence,
            claim.dump_fence,
            kind.value,
            index,
            sent.message_id,
            sent.file_id,
            sent.file_unique_id,
        )

    async def supersede_older(self, claim: Writer) -> None:
        """A new dump starts a new set; what an older one sent is to be deleted."""
        await self._executor.execute(_SUPERSEDE_OLDER, claim.job_id, claim.fence)

    async def supersede_all(self, job_id: UUID) -> None:
        await self._executor.execute(_SUPERSEDE_ALL, job_id)

    async def add_sent(
        self, set_id: UUID, dump_fence: int, kind: Kind, sent: Sequence[tuple[Part, Sent]], *, at: datetime
    ) -> None:
        """Write rows of documents that are in the chat already; those that have one keep it."""
        await self._executor.execute(
            _ADD_SENT,
            set_id,
            dump_fence,
            kind.value,
            at,
            [part.index for part, _ in sent],
            [part.size_bytes for part, _ in sent],
            [part.sha256 for part, _ in sent],
            [place.bot_id for _, place in sent],
            [place.chat_id for _, place in sent],
            [place.message_id for _, place in sent],
            [place.file_id for _, place in sent],
            [place.file_unique_id for _, place in sent],
        )

    async def require_whole(self, file_set: FileSet, documents: int) -> None:
        """In the transaction that records them. Raises LeaseLost when some were given up meanwhile."""
        if await self._executor.fetchval(_WHOLE, file_set.job_id) != documents:
            raise LeaseLost

    async def give_up(self, file_set: FileSet) -> None:
        """Let the documents be deleted from the chat, unless they are a backup's."""
        await self._executor.execute(_SUPERSEDE_FILE, file_set.job_id)

    async def lock_message(self, chat_id: int, message_id: int) -> None:
        """Two who adopt one message do so one after the other; until the transaction ends."""
        await self._executor.execute(_LOCK_MESSAGE, chat_id, message_id)

    async def is_named(self, chat_id: int, message_id: int) -> bool:
        """Whether a row, of whichever bot, names this message, and its document may be there."""
        return bool(await self._executor.fetchval(_IS_NAMED, chat_id, message_id))

    async def of_backup(self, backup_id: UUID) -> Sequence[PartRow]:
        """Its parts in order, without the manifest."""
        return [row_of(record) for record in await self._executor.fetch(_OF_BACKUP, backup_id)]

    async def _fenced(self, statement: str, *arguments: object) -> None:
        if await self._executor.execute(statement, *arguments) != "UPDATE 1":
            raise LeaseLost


def row_of(record: asyncpg.Record) -> PartRow:
    part = Part(index=record["index"], size_bytes=record["size_bytes"], sha256=record["sha256"])
    sent = None
    if record["message_id"] is not None:
        sent = Sent(
            bot_id=record["bot_id"],
            chat_id=record["chat_id"],
            message_id=record["message_id"],
            file_id=record["file_id"],
            file_unique_id=record["file_unique_id"],
        )
    return PartRow(part, record["status"], sent)
