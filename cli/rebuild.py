"""Fills a control plane from the chat alone: pinned catalogue, each manifest it names, rows.

`pgferry catalogue` calls it. Nothing is believed that one of our keys did not sign.
"""

import hashlib
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from cli.run import CannotDo
from cli.settings import CatalogueSettings, RebuildSettings
from shared.contracts.catalogue import Catalogue, CatalogueEntry
from shared.contracts.errors import PermanentError, TemporaryError
from shared.contracts.manifest import AnyManifest, Part, manifest_of
from shared.runtime.signing import CATALOGUE, MANIFEST, NotAuthentic, Signer
from shared.storage.database import Database
from shared.storage.parts import Sent
from shared.storage.rebuilding import Rebuilding
from shared.telegram.catalogue import read_catalogue
from shared.telegram.client import TelegramChatStore, telegram_of
from shared.telegram.errors import FloodWait
from shared.telegram.pins import Pins


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`outcome` is added, known or refused; only what was refused has a reason."""

    backup_id: UUID
    project_id: str
    outcome: str
    reason: str | None = None

    def as_json(self) -> dict[str, object]:
        return asdict(self)


async def rebuilt(
    database: Database, settings: RebuildSettings, *, chat_id: int | None, file_id: str | None
) -> list[Rebuilt]:
    """What became of each backup of the catalogue; raises what `catalogue_of` does, or Unavailable."""
    signer = Signer.of(settings.signing_secrets, purpose=MANIFEST)
    async with introduced(settings) as telegram:
        catalogue = await catalogue_of(telegram, settings, chat_id=chat_id, file_id=file_id)
        rebuild = Rebuild(database, telegram, signer)
        return [await rebuild(entry) for entry in catalogue.entries]


async def catalogue_of(
    telegram: TelegramChatStore, settings: CatalogueSettings, *, chat_id: int | None, file_id: str | None
) -> Catalogue:
    """The one of this file id, else what the chat has pinned; raises CannotDo, NotAuthentic or a Failure."""
    found = file_id or await _pinned(telegram, settings, chat_id)
    catalogue = await read_catalogue(telegram, found, Signer.of(settings.signing_secrets, purpose=CATALOGUE))
    if catalogue.bot_id != telegram.bot_id:
        raise CannotDo(
            f"the catalogue is bot {catalogue.bot_id}'s and TELEGRAM_BOT_TOKEN is bot {telegram.bot_id}'s: "
            "Telegram gives a document to the bot that sent it, and to no other"
        )
    return catalogue


@asynccontextmanager
async def introduced(settings: CatalogueSettings) -> AsyncIterator[TelegramChatStore]:
    async with telegram_of(settings) as telegram:
        await telegram.introduce()
        yield telegram


async def _pinned(telegram: TelegramChatStore, settings: CatalogueSettings, chat_id: int | None) -> str:
    chat = chat_id or next(iter(settings.chat_ids), None)
    if chat is None:
        raise CannotDo("say where the catalogue is: --chat, --file-id or TELEGRAM_CHAT_ID")
    try:
        shown = await Pins(telegram.bot).newest(chat)
    except FloodWait as wait:
        raise CannotDo(f"Telegram asks to wait {wait.seconds:.0f} s") from None
    if shown is None or shown.file_id is None:
        raise CannotDo(
            f"chat {chat} has no document pinned; the uploader's log has the file id of each catalogue "
            "(--file-id)"
        )
    return shown.file_id


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Records one backup, unless it is known; a backup and its parts are one transaction."""

    database: Database
    telegram: TelegramChatStore
    signer: Signer

    async def __call__(self, entry: CatalogueEntry) -> Rebuilt:
        async with self.database.session() as session:
            known = await session.backups.find(entry.backup_id)
        if known is not None:
            return Rebuilt(entry.backup_id, entry.project_id, "known")
        try:
            added = await self._record(entry, *await self._manifest(entry))
        except (PermanentError, TemporaryError, NotAuthentic, CannotDo) as error:
            return Rebuilt(entry.backup_id, entry.project_id, "refused", str(error))
        return Rebuilt(entry.backup_id, entry.project_id, "added" if added else "known")

    async def _manifest(self, entry: CatalogueEntry) -> tuple[AnyManifest, Part]:
        """The manifest that the entry means, and its size and hash."""
        with tempfile.TemporaryDirectory(prefix="pgferry-") as directory:
            target = Path(directory, "manifest")
            await self.telegram.fetch(entry.file_id, target)
            content = target.read_bytes()  # noqa: ASYNC240 - nothing else runs beside this command
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise CannotDo("the manifest in the chat is not the one that the catalogue names")
        try:
            document = json.loads(content)
            self.signer.verify(document)
            manifest = manifest_of(document)
        except (ValueError, ValidationError) as error:
            raise CannotDo("the manifest in the chat cannot be read") from error
        if (manifest.backup_id, manifest.bot_id) != (entry.backup_id, self.telegram.bot_id):
            raise CannotDo("the manifest in the chat is another backup's")
        return manifest, Part(index=0, size_bytes=len(content), sha256=entry.sha256)

    async def _record(self, entry: CatalogueEntry, manifest: AnyManifest, document: Part) -> bool:
        """With the time of expiry that the catalogue has: it may have been changed since."""
        sent = Sent(
            bot_id=manifest.bot_id,
            chat_id=entry.chat_id,
            message_id=entry.message_id,
            file_id=entry.file_id,
            file_unique_id="",  # only equality of files is told by it, and nobody asks
        )
        current = manifest.model_copy(update={"expires_at": entry.expires_at})
        return await Rebuilding(self.database)(current, sent=sent, document=document)
