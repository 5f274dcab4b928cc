"""Finds out what the bot may do in a chat, by doing it; `pgferry doctor telegram` calls it.

A document of one line is posted, fetched, edited, pinned, unpinned and deleted again.
"""

import hashlib
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from cli.settings import DoctorSettings
from shared.contracts.errors import Failure, PermanentError
from shared.telegram.client import SentDocument, TelegramChatStore, telegram_of
from shared.telegram.errors import FloodWait
from shared.telegram.pins import Pins
from shared.telegram.removal import Removal

_CONTENT: Final = b"pgferry doctor: this document is deleted again\n"
_LOST: Final = {
    "chat": "Nothing can be stored here: add the bot to the chat as an administrator.",
    "post": "Nothing can be stored here: make the bot an administrator that may post messages.",
    "fetch": "What is stored here cannot be brought back.",
    "edit": "What is older than 48 hours cannot be taken out of the chat: let the bot edit messages.",
    "pin": "The catalogue is not found without the database: let the bot edit (or pin) messages.",
    "unpin": "Old catalogues stay pinned: let the bot edit (or pin) messages.",
    "delete": "Expired backups stay in the chat: let the bot delete messages.",
    "clock": "What may be deleted (48 h), tokens and expiry are judged by this clock: set it by NTP.",
}
#: Telegram says whole seconds, and a post takes some.
_CLOCK_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Check:
    """`problem` is None for what is well; else what is wrong, and what is lost by it.

    `chat_id` is None for what concerns the bot in all chats; `found` is what there is to see.
    """

    chat_id: int | None
    check: str
    problem: str | None
    found: str | None = None


async def examined(settings: DoctorSettings) -> list[Check]:
    async with telegram_of(settings) as store:
        await store.introduce()
        bot = Check(None, "bot", None, f"{store.bot_name} ({store.bot_id})")
        return [bot, *[one for chat_id in settings.chat_ids for one in await Examination(store, chat_id)()]]


@dataclass(slots=True)
class Examination:
    """Of one chat; what was posted is deleted at the end, if the bot may."""

    store: TelegramChatStore
    chat_id: int
    checks: list[Check] = field(default_factory=list)
    _sent: SentDocument | None = None
    _asked_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _answered_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def __call__(self) -> list[Check]:
        await self._check("chat", partial(self.store.describe, self.chat_id))
        with tempfile.TemporaryDirectory(prefix="pgferry-") as directory:
            await self._check("post", partial(self._post, Path(directory, "sent")))
            if self._sent is None:
                return self.checks
            await self._check("fetch", partial(self._fetch, self._sent, Path(directory, "back")))
        message_id, pins, removal = self._sent.message_id, Pins(self.store.bot), Removal(self.store.bot)
        await self._check("edit", partial(removal.replace_by_tombstone, self.chat_id, message_id))
        await self._check("pin", partial(pins.pin, self.chat_id, message_id))
        await self._check("unpin", partial(pins.unpin, self.chat_id, message_id))
        await self._check("delete", partial(removal.delete, self.chat_id, [message_id]))
        await self._check("clock", self._compare_clocks)
        return self.checks

    async def _check(self, name: str, call: Callable[[], Awaitable[str | None]]) -> None:
        """Whatever becomes of it the next ones are made: what was posted must not stay."""
        problem, found = None, None
        try:
            found = await call()
        except FloodWait as wait:
            problem = f"Telegram asks to wait {wait.seconds:.0f} s: ask again then."
        except Failure as error:
            problem = f"{error.sentence} {_LOST[name]}"
        self.checks.append(Check(self.chat_id, name, problem, found))

    async def _compare_clocks(self) -> None:
        if self._sent is None:
            return
        early = (self._asked_at - self._sent.posted_at).total_seconds()
        late = (self._sent.posted_at - self._answered_at).total_seconds()
        behind = late if late > 0 else -max(early, 0)
        if abs(behind) > _CLOCK_SECONDS:
            told = "behind" if behind > 0 else "ahead of"
            sentence = f"This machine's clock is {abs(behind):.0f} s {told} Telegram's."
            raise PermanentError("clock_differs", sentence)

    async def _post(self, path: Path) -> None:
        self._asked_at = datetime.now(UTC)
        path.write_bytes(_CONTENT)  # noqa: ASYNC240 - nothing else runs beside this command
        self._sent = await self.store.send(
            path, chat_id=self.chat_id, filename="pgferry-doctor.txt", caption=None
        )
        self._answered_at = datetime.now(UTC)

    async def _fetch(self, sent: SentDocument, target: Path) -> None:
        if await self.store.fetch(sent.file_id, target) != hashlib.sha256(_CONTENT).hexdigest():
            raise PermanentError("telegram_document_altered", "What was just posted came back altered.")
