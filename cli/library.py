"""pgferry for programs: sends files to the chat and keeps the record of backups; docs/library.md shows how.

`pgferry backups send`, `record`, `update` and `delete` are made of this. Whoever uses it gets exceptions:
`Failure` with a code and a sentence, `ValidationError` for options that cannot be, `Fatal` for a token that
Telegram does not know.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from cli.settings import SendSettings
from services.uploader.adopt import Adopt, Message
from services.uploader.cutting import Source
from services.uploader.files import PostedInPart, PostFile, SendFile, SentFile
from services.uploader.lane import Lane
from services.uploader.sender import Sender
from shared.contracts.backup import Changes, FileOptions
from shared.contracts.errors import Failure
from shared.contracts.manifest import PART_SIZE_BYTES, SentPart
from shared.runtime.logs import quiet_libraries
from shared.runtime.settings import load
from shared.runtime.signing import MANIFEST, Signer
from shared.storage.backups import Backup, Filters, Statistics
from shared.storage.database import Database, open_database
from shared.storage.keeping import Keeping
from shared.storage.projects import slug_of
from shared.telegram.client import TelegramChatStore, telegram_of


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one file: it was `sent`, or there is an `error`; `left`: its parts that no row names."""

    name: str
    sent: SentFile | None = None
    error: Failure | None = None
    left: tuple[SentPart, ...] = ()


@dataclass(frozen=True, slots=True)
class Library:
    database: Database
    telegram: TelegramChatStore
    sender: Sender
    signer: Signer
    actor: str
    part_size_bytes: int = PART_SIZE_BYTES

    async def send(
        self,
        content: Path | bytes,
        *,
        project: str,
        record: bool = True,
        **options: Any,  # noqa: ANN401 - of `FileOptions`
    ) -> SentFile:
        """Send a file, or bytes that are to be one (give them a `filename`), and record it as a backup.

        With `record=False` it is only sent: nothing expires it, lists it, or deletes it. `options` are those
        of `FileOptions`. Raises ValidationError or a Failure, and then nothing is recorded.
        """
        wanted = await self._wanted(project, options)
        return await self._sender(record=record)(_source(content), wanted)

    async def send_each(
        self,
        contents: Iterable[Path | bytes],
        *,
        project: str,
        record: bool = True,
        **options: Any,  # noqa: ANN401 - of `FileOptions`
    ) -> AsyncIterator[Item]:
        """Send one after the other, in this order; one that fails does not keep the next ones from it.

        Raises what concerns them all before the first: ValidationError, PermanentError `unknown_project`.
        """
        wanted, send = await self._wanted(project, options), self._sender(record=record)
        for content in contents:
            yield await _item(send, _source(content), wanted)

    async def record(
        self,
        *,
        project: str,
        chat_id: int,
        message_id: int,
        file_id: str,
        **options: Any,  # noqa: ANN401 - of `FileOptions`
    ) -> Backup:
        """Adopt a document that is in the chat already; it is fetched once, for its size and hash.

        Raises ValidationError or a Failure.
        """
        wanted = await self._wanted(project, options)
        adopt = Adopt(self.database, self.telegram, self.actor)
        backup_id = await adopt(Message(chat_id, message_id, file_id), wanted)
        return await self._keeping.find(backup_id)

    async def update(
        self,
        backup_id: UUID,
        **changes: Any,  # noqa: ANN401 - of `Changes`
    ) -> Backup:
        """Change what `Changes` names, of a stored backup; what is in the chat stays as it is.

        Raises ValidationError, or PermanentError `unknown_backup` or `backup_not_stored`.
        """
        return await self._keeping.update(backup_id, Changes(**changes))

    async def delete(self, backup_id: UUID, *, even_newest: bool = False) -> None:
        """Let an uploader take it out of the chat; raises as `Keeping.delete` does."""
        await self._keeping.delete(backup_id, even_newest=even_newest)

    async def list(
        self,
        *,
        limit: int = 50,
        **filters: Any,  # noqa: ANN401 - of `Filters`
    ) -> Sequence[Backup]:
        """The newest first; `filters` are those of `Filters`."""
        async with self.database.session() as session:
            return await session.backups.list(Filters(**filters), limit=limit)

    async def statistics(self, project: str | None = None) -> Sequence[Statistics]:
        """Of what is stored, by project and type."""
        async with self.database.session() as session:
            return await session.backups.statistics(project)

    @property
    def _keeping(self) -> Keeping:
        return Keeping(self.database, self.actor)

    async def _wanted(self, project: str, options: Mapping[str, Any]) -> FileOptions:
        wanted = FileOptions(project_id=project, **options)
        await slug_of(self.database, project)
        return wanted

    def _sender(self, *, record: bool) -> SendFile | PostFile:
        if not record:
            return PostFile(self.sender, self.part_size_bytes)
        return SendFile(self.database, self.sender, self.signer, self.actor, self.part_size_bytes)


@asynccontextmanager
async def open_library(actor: str, settings: SendSettings | None = None) -> AsyncIterator[Library]:
    """With these settings, else those of the environment; `actor` is who the audit log names.

    Raises SettingsError, Unavailable, or Fatal for a token that Telegram does not know.
    """
    settings = settings or load(SendSettings)
    quiet_libraries()
    async with (
        open_database(settings.database_url, name="pgferry-library", size=2) as database,
        telegram_of(settings) as telegram,
    ):
        await telegram.introduce()
        lane = Lane.of(database, settings)
        sender = Sender(database, telegram, settings.chat_ids, lane)
        signer = Signer.of(settings.signing_secrets, purpose=MANIFEST)
        yield Library(database, telegram, sender, signer, actor)


async def _item(send: SendFile | PostFile, source: Source, options: FileOptions) -> Item:
    try:
        return Item(source.name, await send(source, options))
    except PostedInPart as error:
        return Item(source.name, error=error, left=error.parts)
    except Failure as error:
        return Item(source.name, error=error)


def _source(content: Path | bytes) -> Source:
    return Source(content.name if isinstance(content, Path) else "bytes", content)
