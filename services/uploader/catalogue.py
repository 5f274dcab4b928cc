"""A duty: keeps one document pinned in the first chat that lists every live backup of this bot.

Each step is found again from the rows of `control_plane.catalogues` and from what the chat shows as pinned,
so a round goes on wherever another one, of whichever process, has ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from services.uploader.chats import follow
from services.uploader.lane import Lane
from services.uploader.metrics import CATALOGUE_PINNED, SENT, SENT_BYTES
from services.uploader.pinned_catalogue import PinnedCatalogue, is_recorded, looks_like_one
from services.uploader.removal import replaced_by_tombstone
from services.uploader.settings import UploaderSettings
from shared.contracts.catalogue import CATALOGUE_SUFFIX, Catalogue, CatalogueEntry
from shared.contracts.errors import Failure, PermanentError, TemporaryError
from shared.runtime.catalogue_document import encoded, sha256_of
from shared.runtime.reconciler import Duty
from shared.runtime.signing import CATALOGUE, Signer
from shared.storage.catalogues import CatalogueRow
from shared.storage.database import Database
from shared.telegram.client import MAX_DOWNLOAD_BYTES, SentDocument, TelegramChatStore
from shared.telegram.errors import ChatMoved, FloodWait, may_be_done
from shared.telegram.pins import Pinned, Pins
from shared.telegram.removal import Removal

#: Looks more often than it may send, so that a change waits for little more than its time.
_ROUNDS_IN_A_PERIOD = 4

KINDS = ("sent", "pinned", "deleted", "replaced", "remains")
_CLEARED = ("deleted", "replaced", "remains")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class KeepCatalogue:
    """At most one document in `seconds`, over all processes of this bot."""

    database: Database
    telegram: TelegramChatStore
    signer: Signer
    chat_id: int
    seconds: float
    lane: Lane
    pins: Pins = field(init=False)
    _refused: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.pins = Pins(self.telegram.bot)

    async def __call__(self) -> Mapping[str, int]:
        """Raises a Failure; what was done before it stays done."""
        async with self.database.session() as session:
            self.chat_id = await session.chats.now(self.chat_id)
        try:
            return await self._round()
        except ChatMoved as move:
            await follow(self.database, self.chat_id, move)
            return await self()
        except FloodWait as wait:
            sentence = f"Telegram asks to wait {wait.seconds:.0f} s with the catalogue."
            raise TemporaryError("telegram_busy", sentence, retry_after=wait.seconds) from None

    async def _round(self) -> Mapping[str, int]:
        rows = await self._rows()
        shown = await self.pins.newest(self.chat_id)
        if await self._adopted(rows, shown):
            rows = await self._rows()
        sent = await self._send_if_due(rows, shown)
        if sent:
            rows = await self._rows()
        documents = [row for row in rows if row.status == "sent"]
        if not documents:
            return {}
        pinned = await self._pin(documents[0], shown)
        spared = None if pinned is not None else shown
        cleared = await self._clear(documents[1:], spared)
        return {"sent": int(sent), "pinned": pinned or 0, **cleared}

    async def _rows(self) -> list[CatalogueRow]:
        async with self.database.session() as session:
            return await session.catalogues.rows(self.telegram.bot_id)

    async def _adopted(self, rows: Sequence[CatalogueRow], shown: Pinned | None) -> bool:
        """Whether a pinned catalogue without a row has one now."""
        if shown is None or shown.file_id is None or not looks_like_one(shown) or is_recorded(rows, shown):
            return False
        adopting = PinnedCatalogue(self.database, self.telegram, self.signer)
        return await adopting.adopt(shown, shown.file_id)

    async def _send_if_due(self, rows: Sequence[CatalogueRow], shown: Pinned | None) -> bool:
        if rows and rows[0].age.total_seconds() < self.seconds:
            return False
        current = next((row for row in rows if row.status == "sent"), None)
        async with self.database.session() as session:
            entries = await session.catalogues.live(self.telegram.bot_id)
        if current is None and not entries:
            return False
        if current is not None and not self._is_stale(current, entries, rows, shown):
            return False
        return await self._send(rows[0].revision + 1 if rows else 1, entries)

    def _is_stale(
        self,
        current: CatalogueRow,
        entries: Sequence[CatalogueEntry],
        rows: Sequence[CatalogueRow],
        shown: Pinned | None,
    ) -> bool:
        """The list changed, or its chat; or somebody pinned what was sent later, and hides it."""
        if current.sha256 != sha256_of(entries) or current.chat_id != self.chat_id:
            return True
        if shown is None or is_recorded(rows, shown):
            return False  # a predecessor that hides it is about to be unpinned
        return current.was_pinned and shown.message_id > (current.message_id or 0)

    async def _send(self, revision: int, entries: Sequence[CatalogueEntry]) -> bool:
        """False when another process sends this revision."""
        bot_id = self.telegram.bot_id
        catalogue = Catalogue(
            bot_id=bot_id,
            revision=revision,
            made_at=datetime.now(UTC).replace(microsecond=0),
            entries=tuple(entries),
        )
        content = encoded(catalogue, self.signer)
        if len(content) > MAX_DOWNLOAD_BYTES:
            raise PermanentError(
                "catalogue_too_large",
                f"A catalogue of {len(entries)} backups has {len(content)} bytes; a bot gets back 20 MiB.",
            )
        async with self.database.session() as session:
            reserved = await session.catalogues.reserve(
                bot_id, revision, chat_id=self.chat_id, sha256=sha256_of(entries), entries=len(entries)
            )
        if reserved:
            await self._record(catalogue, await self._post(catalogue, content), len(content))
        return reserved

    async def _post(self, catalogue: Catalogue, content: bytes) -> SentDocument:
        """A reservation whose document surely was not sent is taken back; else the document may be there."""
        try:
            async with self.lane.turn(catalogue.bot_id, self.chat_id, job_id=None):
                return await self.telegram.send_bytes(
                    content,
                    chat_id=self.chat_id,
                    filename=_filename(catalogue),
                    caption=_caption(catalogue),
                )
        except (FloodWait, Failure) as error:
            if not may_be_done(error):
                async with self.database.session() as session:
                    await session.catalogues.forget(catalogue.bot_id, catalogue.revision)
            raise

    async def _record(self, catalogue: Catalogue, document: SentDocument, size: int) -> None:
        async with self.database.session() as session:
            await session.catalogues.sent(
                catalogue.bot_id,
                catalogue.revision,
                message_id=document.message_id,
                file_id=document.file_id,
            )
        SENT.labels("catalogue").inc()
        SENT_BYTES.inc(size)
        log.info(
            "catalogue sent",
            revision=catalogue.revision,
            backups=len(catalogue.entries),
            message_id=document.message_id,
            file_id=document.file_id,
        )

    async def _pin(self, current: CatalogueRow, shown: Pinned | None) -> int | None:
        """1 when it was pinned now, 0 when it was before, None when the bot may not."""
        message_id = current.message_id or 0
        if current.was_pinned and shown is not None and shown.message_id >= message_id:
            CATALOGUE_PINNED.set(1)
            return 0
        try:
            await self.pins.pin(current.chat_id, message_id)
        except PermanentError as error:
            self._may_not_pin(error)
            return None
        async with self.database.session() as session:
            await session.catalogues.pinned(self.telegram.bot_id, current.revision)
        CATALOGUE_PINNED.set(1)
        self._refused = False
        return 1

    def _may_not_pin(self, error: PermanentError) -> None:
        """Backups stand without a pin; its file id, in the log, finds the catalogue as well."""
        if not self._refused:
            log.warning("the catalogue is not pinned", chat_id=self.chat_id, reason=error.sentence)
        self._refused = True
        CATALOGUE_PINNED.set(0)

    async def _clear(self, older: Sequence[CatalogueRow], spared: Pinned | None) -> Mapping[str, int]:
        """Unpin and remove what the current one replaces; `spared` is all that is pinned while it is not."""
        counts = dict.fromkeys(_CLEARED, 0)
        for row in older:
            if spared is not None and (spared.chat_id, spared.message_id) == (row.chat_id, row.message_id):
                continue
            counts[await self._remove(row)] += 1
        return counts

    async def _remove(self, row: CatalogueRow) -> str:
        """Which of `KINDS` it was."""
        try:
            await self.pins.unpin(row.chat_id, row.message_id or 0)
            gone = await self.pins.delete(row.chat_id, row.message_id or 0)
            kind = "deleted" if gone else await self._replace(row)
        except ChatMoved:  # the group that it lies in is closed
            kind = "remains"
        async with self.database.session() as session:
            settle = session.catalogues.remains if kind == "remains" else session.catalogues.forget
            await settle(self.telegram.bot_id, row.revision)
        return kind

    async def _replace(self, row: CatalogueRow) -> str:
        """What is too old for a bot to delete gives way to a few words, or is for a person to delete."""
        removal = Removal(self.telegram.bot)
        replaced = await replaced_by_tombstone(removal, row.chat_id, row.message_id or 0, "catalogue")
        return "replaced" if replaced else "remains"


def catalogue_duties(
    database: Database, telegram: TelegramChatStore, settings: UploaderSettings, lane: Lane
) -> Sequence[Duty]:
    """The uploader's duty, or none where it is turned off."""
    if not settings.catalogue_seconds:
        return ()
    signer = Signer.of(settings.signing_secrets, purpose=CATALOGUE)
    keep = KeepCatalogue(database, telegram, signer, settings.chat_ids[0], settings.catalogue_seconds, lane)
    return (Duty("catalogue", KINDS, keep, period_seconds=settings.catalogue_seconds / _ROUNDS_IN_A_PERIOD),)


def _filename(catalogue: Catalogue) -> str:
    return f"pgferry-{catalogue.bot_id}-{catalogue.revision}{CATALOGUE_SUFFIX}"


def _caption(catalogue: Catalogue) -> str:
    made_at = f"{catalogue.made_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"catalogue {catalogue.revision} · {made_at} · backups: {len(catalogue.entries)}"
