"""Records a document that is in the chat already, whoever sent it. `cli.library` calls it.

A bot cannot read a message by its id: that this message holds this file is the operator's word.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from services.uploader.manifest import file_manifest
from services.uploader.patience import WAITS, patiently
from shared.contracts.backup import FileOptions
from shared.contracts.errors import PermanentError
from shared.contracts.manifest import FileManifest, SentPart, Stream
from shared.storage.database import Database
from shared.storage.parts import Kind, sent_of
from shared.telegram.client import TelegramChatStore


@dataclass(frozen=True, slots=True)
class Message:
    """A document in a chat, as whoever sent it was told; the file id is this bot's."""

    chat_id: int
    message_id: int
    file_id: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Fetch a document once, for its size and hash, and record it without a manifest."""

    database: Database
    telegram: TelegramChatStore
    actor: str
    waits: Sequence[float] = WAITS

    async def __call__(self, message: Message, options: FileOptions) -> UUID:
        """The backup's id. Raises a Failure; PermanentError `message_known` for what a row names already."""
        await self._require_unknown(message)
        await patiently(partial(self.telegram.describe, message.chat_id), self.waits)  # a chat that it is in
        part = await patiently(partial(self._fetched, message), self.waits)
        manifest = file_manifest(
            options,
            backup_id=uuid4(),
            at=datetime.now(UTC),
            bot_id=self.telegram.bot_id,
            filename=options.filename or f"message-{message.message_id}",
            stored=Stream(size_bytes=part.size_bytes, sha256=part.sha256),
            parts=[part],
        )
        await self._record(message, manifest, part)
        return manifest.backup_id

    async def _require_unknown(self, message: Message) -> None:
        """Before the download; it is asked again in the transaction that records."""
        async with self.database.session() as session:
            known = await session.parts.is_named(message.chat_id, message.message_id)
        if known:
            raise _known(message)

    async def _fetched(self, message: Message) -> SentPart:
        with tempfile.TemporaryDirectory(prefix="pgferry-") as folder:
            target = Path(folder, "document")
            sha256 = await self.telegram.fetch(message.file_id, target)
            size = (await asyncio.to_thread(target.stat)).st_size
        return SentPart(
            index=0,
            size_bytes=size,
            sha256=sha256,
            chat_id=message.chat_id,
            message_id=message.message_id,
            file_id=message.file_id,
            file_unique_id="",  # only equality of files is told by it, and nobody asks
        )

    async def _record(self, message: Message, manifest: FileManifest, part: SentPart) -> None:
        """One transaction. The message's age is not known: for the removal it is as old as its row."""
        row = (part, sent_of(manifest.bot_id, part))
        async with self.database.transaction() as transaction:
            await transaction.parts.lock_message(message.chat_id, message.message_id)
            if await transaction.parts.is_named(message.chat_id, message.message_id):
                raise _known(message)
            await transaction.parts.add_sent(
                manifest.set_id, manifest.dump_fence, Kind.PART, [row], at=manifest.created_at
            )
            await transaction.backups.add_file(manifest, sent=None, sha256=None)
            await transaction.audit.add(
                self.actor,
                "backup.record",
                project_id=manifest.project_id,
                backup_id=manifest.backup_id,
                detail={"chat_id": message.chat_id, "message_id": message.message_id},
            )


def _known(message: Message) -> PermanentError:
    return PermanentError(
        "message_known",
        f"Message {message.message_id} of chat {message.chat_id} is a recorded backup's, or was removed.",
    )
