"""The uploader's duty to delete from chats of its own the documents of calls that were never answered.

Such a document's message id was never told. What is known are the ids that were given before and after it: an
id in between that no row names is nobody's in a chat to which nobody else posts (TELEGRAM_CHAT_EXCLUSIVE).
The call is made before the row says so, and a repeated one passes over what is gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from services.uploader.pinned_catalogue import looks_like_one
from services.uploader.settings import UploaderSettings
from shared.contracts.errors import PermanentError
from shared.runtime.reconciler import Duty
from shared.storage.database import Database
from shared.storage.suspected import Gap
from shared.telegram.client import TelegramChatStore
from shared.telegram.errors import FloodWait, require_about_the_message
from shared.telegram.pins import Pins
from shared.telegram.removal import DELETABLE_SECONDS, DELETED_AT_ONCE, Removal

KINDS = ("resolved", "deleted", "refused")

#: Of the message after the gap: longer than a round of the catalogue's duty, which keeps no other sign that
#: its answer may still be recorded.
SETTLED_SECONDS: Final = 3600.0
#: Below are channels and supergroups, which number their own messages. In other chats a message's number is
#: one of all that the bot has, so that a gap tells nothing.
_NUMBERED_BY_THEMSELVES: Final = -1_000_000_000_000
#: There is no haste: nothing is looked at before an hour has passed.
_RECONCILER_PERIODS: Final = 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CloseGaps:
    database: Database
    telegram: TelegramChatStore
    chat_ids: Sequence[int]

    async def __call__(self) -> Mapping[str, int]:
        """One round. Raises a Failure when Telegram or the database is not reached, the bot may not use a
        chat, or an unknown catalogue is pinned there; who is told to wait ends the round.
        """
        counts = dict.fromkeys(KINDS, 0)
        try:
            for gap in await self._gaps():
                await self._close(gap, counts)
        except FloodWait as wait:
            log.info("Telegram asks to wait; gaps wait for the next round", seconds=wait.seconds)
        if any(counts.values()):
            log.info("gaps where suspected documents may be", **counts)
        return counts

    async def _gaps(self) -> Sequence[Gap]:
        """Of chats whose every document is known here."""
        async with self.database.session() as session:
            first, *others = [await session.chats.now(chat_id) for chat_id in self.chat_ids]
            gaps = await session.suspected.gaps(
                self.telegram.bot_id,
                [chat_id for chat_id in (first, *others) if chat_id < _NUMBERED_BY_THEMSELVES],
                younger_than=DELETABLE_SECONDS,
                settled=SETTLED_SECONDS,
                at_most=DELETED_AT_ONCE,
            )
        if gaps:
            for chat_id in {first, *(gap.chat_id for gap in gaps)}:
                await self._require_own(chat_id, must_show=chat_id == first)
        return gaps

    async def _require_own(self, chat_id: int, *, must_show: bool) -> None:
        """A catalogue that no row knows says that our rows are not all: the control plane was set back in
        time, or another pgferry uses this chat. That they are all is said by one that a row knows, in the
        first chat.
        """
        shown = await Pins(self.telegram.bot).newest(chat_id)
        if shown is None or not looks_like_one(shown):
            if must_show:
                raise _kept(f"No catalogue is pinned in chat {chat_id} to say that no row is missing")
            return
        async with self.database.session() as session:
            if not await session.catalogues.is_recorded(shown.chat_id, shown.message_id):
                raise _kept(
                    f"The catalogue pinned in chat {chat_id} is not of this state of the control plane"
                )

    async def _close(self, gap: Gap, counts: dict[str, int]) -> None:
        if gap.message_ids and not await self._deleted(gap):
            counts["refused"] += 1
            return
        async with self.database.session() as session:
            await session.suspected.resolve(gap)
        counts["resolved"] += 1
        counts["deleted"] += len(gap.message_ids)

    async def _deleted(self, gap: Gap) -> bool:
        """False when Telegram refuses: rights may come back, and what is too old is soon not looked at."""
        try:
            await Removal(self.telegram.bot).delete(gap.chat_id, gap.message_ids)
        except PermanentError as error:
            require_about_the_message(error)
            return False
        log.info("deleted what no row names", chat_id=gap.chat_id, message_ids=list(gap.message_ids))
        return True


def _kept(reason: str) -> PermanentError:
    return PermanentError("chat_not_exclusive", f"{reason}: nothing is deleted from gaps.")


def gap_duties(database: Database, telegram: TelegramChatStore, settings: UploaderSettings) -> Sequence[Duty]:
    """The uploader's duty, or none where others may post."""
    if not settings.chat_exclusive:
        return ()
    period = settings.reconcile_seconds * _RECONCILER_PERIODS
    return (Duty("gaps", KINDS, CloseGaps(database, telegram, settings.chat_ids), period_seconds=period),)
