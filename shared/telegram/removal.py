"""Takes documents out of a chat, as far as a bot may; the uploader's duty calls it.

A bot may not delete what is older than 48 hours, not even as an administrator of the channel (tdlib,
MessagesManager), but may edit its own post at any age: the document is then unlinked, not erased.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import telegram
from telegram import InputMediaDocument
from telegram.error import BadRequest

from shared.telegram.errors import speaking_to_telegram

#: Of one call (Bot API, deleteMessages).
DELETED_AT_ONCE: Final = 100
#: Age up to which a bot may delete, less a margin for two clocks and a slow call.
DELETABLE_SECONDS: Final = 48 * 3600 - 900.0

_TOMBSTONE: Final = b"This document was removed by pgferry.\n"
_TOMBSTONE_NAME: Final = "removed.txt"
#: What a call says that was made before, its answer being lost: there is nothing left to do.
_DONE_BEFORE: Final = ("message to edit not found", "message is not modified")


@dataclass(frozen=True, slots=True)
class Removal:
    bot: telegram.Bot = field(repr=False)  # its repr is the token

    async def delete(self, chat_id: int, message_ids: Sequence[int]) -> None:
        """At most `DELETED_AT_ONCE`; those that are gone already are passed over.

        Raises FloodWait, PermanentError when one of them may not be deleted, or another Failure.
        """
        with speaking_to_telegram("delete documents"):
            await self.bot.delete_messages(chat_id, message_ids)

    async def replace_by_tombstone(self, chat_id: int, message_id: int) -> None:
        """Put a few words in place of the document. Raises FloodWait, or a Failure."""
        words = InputMediaDocument(_TOMBSTONE, filename=_TOMBSTONE_NAME)
        with speaking_to_telegram("replace a document"):
            try:
                await self.bot.edit_message_media(words, chat_id=chat_id, message_id=message_id)
            except BadRequest as error:
                if not error.message.lower().startswith(_DONE_BEFORE):
                    raise
