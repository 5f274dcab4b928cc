"""The uploader's duty to delete from the chat what failed, cancelled and repeated dumps have sent, what has
expired, and files that were not sent whole.

Each call is made before its rows say so: a process that dies in between leaves them to the next round, which
finds the documents gone and marks them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import structlog

from shared.contracts.errors import PermanentError
from shared.runtime.reconciler import Duty
from shared.storage.database import Database
from shared.storage.superseded import Removed, Superseded, SupersededParts
from shared.telegram.client import TelegramChatStore
from shared.telegram.errors import FloodWait, require_about_the_message
from shared.telegram.removal import DELETABLE_SECONDS, DELETED_AT_ONCE, Removal

KINDS = ("deleted", "replaced", "remains", "suspected")
#: Of one round, so that other posts of the bot have room: an edit counts like a post.
_REPLACED_IN_A_ROUND = 10
_BATCHES = 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Remover:
    parts: SupersededParts
    removal: Removal

    async def __call__(self) -> Mapping[str, int]:
        """One round. Raises a Failure when Telegram or the database is not reached, or the bot may not use
        the chat; who is told to wait ends the round.
        """
        counts = dict.fromkeys(KINDS, 0)
        await self.parts.supersede_abandoned()
        counts["suspected"] = await self.parts.settle_unanswered()
        try:
            await self._remove(counts)
        except FloodWait as wait:
            log.info(
                "Telegram asks to wait; what is to be deleted waits for the next round", seconds=wait.seconds
            )
        if any(counts.values()):
            log.info("superseded documents", **counts)
        return counts

    async def _remove(self, counts: dict[str, int]) -> None:
        for _ in range(_BATCHES):
            found = await self.parts.next(DELETED_AT_ONCE)
            young = [part for part in found if part.age.total_seconds() < DELETABLE_SECONDS]
            old = [part for part in found if part.age.total_seconds() >= DELETABLE_SECONDS]
            for chat_id, parts in groupby(sorted(young, key=attrgetter("chat_id")), attrgetter("chat_id")):
                old += await self._delete(chat_id, list(parts), counts)
            for part in old[: _REPLACED_IN_A_ROUND - counts["replaced"]]:
                await self._replace(part, counts)
            if len(found) < DELETED_AT_ONCE or counts["replaced"] >= _REPLACED_IN_A_ROUND:
                return

    async def _delete(
        self, chat_id: int, parts: Sequence[Superseded], counts: dict[str, int]
    ) -> Sequence[Superseded]:
        """Delete them; returns those that Telegram does not let us delete."""
        try:
            await self.removal.delete(chat_id, [part.message_id for part in parts])
        except PermanentError as error:
            require_about_the_message(error)
            return parts
        await self.parts.mark(parts, Removed.DELETED)
        counts["deleted"] += len(parts)
        return ()

    async def _replace(self, part: Superseded, counts: dict[str, int]) -> None:
        try:
            await self.removal.replace_by_tombstone(part.chat_id, part.message_id)
        except PermanentError as error:
            require_about_the_message(error)
            log.warning(
                "a document stays in the chat and is for a person to delete",
                chat_id=part.chat_id,
                message_id=part.message_id,
                reason=error.sentence,
            )
            await self.parts.mark([part], Removed.REMOTE_REMAINS)
            counts["remains"] += 1
            return
        await self.parts.mark([part], Removed.DELETED)
        counts["replaced"] += 1


def removal_of(database: Database, telegram: TelegramChatStore) -> Duty:
    """The duty of this bot's uploaders."""
    return Duty("removal", KINDS, Remover(SupersededParts(database, telegram.bot_id), Removal(telegram.bot)))
