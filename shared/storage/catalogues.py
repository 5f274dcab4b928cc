"""Catalogues in the chat: `control_plane.catalogues`, a row for each document, written before it is sent.

The newest row that is `sent` is the current catalogue; older ones are to be taken out of the chat. A row
that stays `sending` is a document that may be in the chat, for its answer was lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from uuid import UUID

import asyncpg

from shared.contracts.catalogue import CatalogueEntry
from shared.storage.executor import Executor

_LIVE = """
    SELECT id AS backup_id, project_id, type, size_bytes, created_at, expires_at, chat_id,
           manifest_message_id AS message_id, manifest_file_id AS file_id, manifest_sha256 AS sha256
      FROM control_plane.backups
     WHERE bot_id = $1 AND status = 'stored'
       AND manifest_message_id IS NOT NULL AND manifest_file_id IS NOT NULL AND manifest_sha256 IS NOT NULL
     ORDER BY created_at, id
"""

_ROWS = """
    SELECT revision, status, chat_id, message_id, file_id, sha256, pinned_at IS NOT NULL AS was_pinned,
           now() - reserved_at AS age
      FROM control_plane.catalogues WHERE bot_id = $1 ORDER BY revision DESC
"""

_RESERVE = """
    INSERT INTO control_plane.catalogues (bot_id, revision, chat_id, sha256, entry_count)
    SELECT $1, $2, $3, $4, $5
     WHERE NOT EXISTS (SELECT FROM control_plane.catalogues WHERE bot_id = $1 AND revision >= $2)
    ON CONFLICT (bot_id, revision) DO NOTHING
"""

_SENT = """
    UPDATE control_plane.catalogues SET status = 'sent', sent_at = now(), message_id = $3, file_id = $4
     WHERE bot_id = $1 AND revision = $2 AND status = 'sending'
"""

_FOUND = """
    INSERT INTO control_plane.catalogues
        (bot_id, revision, status, chat_id, message_id, file_id, sha256, entry_count, sent_at, pinned_at)
    VALUES ($1, $2, 'sent', $3, $4, $5, $6, $7, now(), now())
    ON CONFLICT (bot_id, revision) DO NOTHING
"""

_PINNED = "UPDATE control_plane.catalogues SET pinned_at = now() WHERE bot_id = $1 AND revision = $2"

_REMAINS = """
    UPDATE control_plane.catalogues SET status = 'remote_remains' WHERE bot_id = $1 AND revision = $2
"""

_FORGET = "DELETE FROM control_plane.catalogues WHERE bot_id = $1 AND revision = $2"

_IS_RECORDED = """
    SELECT EXISTS (SELECT FROM control_plane.catalogues WHERE chat_id = $1 AND message_id = $2)
"""

_UNKNOWN = """
    SELECT count(*) FROM unnest($1::uuid[]) AS listed (id)
     WHERE NOT EXISTS (SELECT FROM control_plane.backups WHERE id = listed.id)
"""


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    revision: int
    status: str
    chat_id: int
    message_id: int | None
    file_id: str | None
    sha256: str
    was_pinned: bool
    age: timedelta  #: since it was reserved, on the database's clock


class Catalogues:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def live(self, bot_id: int) -> list[CatalogueEntry]:
        """Every backup that this bot can give back, the oldest first."""
        records = await self._executor.fetch(_LIVE, bot_id)
        return [CatalogueEntry.model_validate(dict(record)) for record in records]

    async def rows(self, bot_id: int) -> list[CatalogueRow]:
        """The newest first."""
        records = await self._executor.fetch(_ROWS, bot_id)
        return [_row(record) for record in records]

    async def reserve(self, bot_id: int, revision: int, *, chat_id: int, sha256: str, entries: int) -> bool:
        """Say that this revision is about to be sent; False when another process took it or a later one."""
        done = await self._executor.execute(_RESERVE, bot_id, revision, chat_id, sha256, entries)
        return done == "INSERT 0 1"

    async def sent(self, bot_id: int, revision: int, *, message_id: int, file_id: str) -> None:
        await self._executor.execute(_SENT, bot_id, revision, message_id, file_id)

    async def found(
        self,
        bot_id: int,
        revision: int,
        *,
        chat_id: int,
        message_id: int,
        file_id: str,
        sha256: str,
        entries: int,
    ) -> None:
        """Record a catalogue that is pinned and that no row knows, as after a rebuild."""
        await self._executor.execute(_FOUND, bot_id, revision, chat_id, message_id, file_id, sha256, entries)

    async def pinned(self, bot_id: int, revision: int) -> None:
        await self._executor.execute(_PINNED, bot_id, revision)

    async def remains(self, bot_id: int, revision: int) -> None:
        """Telegram neither deletes nor replaces the document any more."""
        await self._executor.execute(_REMAINS, bot_id, revision)

    async def forget(self, bot_id: int, revision: int) -> None:
        """The document is not in the chat, or it is another one."""
        await self._executor.execute(_FORGET, bot_id, revision)

    async def is_recorded(self, chat_id: int, message_id: int) -> bool:
        """Whether this message is a catalogue of any bot of ours."""
        return bool(await self._executor.fetchval(_IS_RECORDED, chat_id, message_id))

    async def unknown(self, backup_ids: Sequence[UUID]) -> int:
        """How many of these backups were never recorded here."""
        return int(await self._executor.fetchval(_UNKNOWN, backup_ids))


def _row(record: asyncpg.Record) -> CatalogueRow:
    return CatalogueRow(**{field.name: record[field.name] for field in fields(CatalogueRow)})
