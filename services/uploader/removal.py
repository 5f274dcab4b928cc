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
        refused = await self._delete_young(counts)
        old = await self.parts.old(_REPLACED_IN_A_ROUND, younger_than=DELETABLE_SECONDS)
        for part in [*old, *refused][:_REPLACED_IN_A_ROUND]:
            await self._replace(part, counts)

    async def _delete_young(self, counts: dict[str, int]) -> Sequence[Superseded]:
        """However many old ones wait, for which there is no haste; returns what may not be deleted."""
        refused: list[Superseded] = []
        for _ in range(_BATCHES):
            found = await self.parts.young(
                DELETED_AT_ONCE, younger_than=DELETABLE_SECONDS, skipped=len(refused)
            )
            for chat_id, parts in groupby(sorted(found, key=attrgetter("chat_id")), attrgetter("chat_id")):
                refused += await self._delete(chat_id, list(parts), counts)
            if len(found) < DELETED_AT_ONCE:
                break
        return refused

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
        replaced = await replaced_by_tombstone(
            self.removal, part.chat_id, part.message_id, "part or manifest"
        )
        await self.parts.mark([part], Removed.DELETED if replaced else Removed.REMOTE_REMAINS)
        counts["replaced" if replaced else "remains"] += 1


async def replaced_by_tombstone(removal: Removal, chat_id: int, message_id: int, what: str) -> bool:
    """False, and a person is told, when Telegram refuses that too. Raises FloodWait, or a Failure that says
    nothing of the message.
    """
    try:
        await removal.replace_by_tombstone(chat_id, message_id)
    except PermanentError as error:
        require_about_the_message(error)
        log.warning(
            "a document stays in the chat and is for a person to delete",
            document=what,
            chat_id=chat_id,
            message_id=message_id,
            reason=error.sentence,
        )
        return False
    return True


def removal_of(database: Database, telegram: TelegramChatStore) -> Duty:
    """The duty of this bot's uploaders."""
    return Duty("removal", KINDS, Remover(SupersededParts(database, telegram.bot_id), Removal(telegram.bot)))
