"""Pinned documents: what a bot can find in a chat without knowing any message of it."""

from dataclasses import dataclass, field

import telegram
from telegram.error import BadRequest

from shared.telegram.errors import speaking_to_telegram

_NOT_FOUND = "not found"
_TOO_OLD = "can't be deleted"


@dataclass(frozen=True, slots=True)
class Pinned:
    """The file's id and name are None for a message without a document."""

    chat_id: int
    message_id: int
    file_id: str | None
    filename: str | None


@dataclass(frozen=True, slots=True)
class Pins:
    """Calls on messages; each raises FloodWait or a Failure."""

    bot: telegram.Bot = field(repr=False)  # its repr is the token

    async def newest(self, chat_id: int) -> Pinned | None:
        """Of the pinned messages the one that was sent last, whenever it was pinned."""
        with speaking_to_telegram("show the chat"):
            message = (await self.bot.get_chat(chat_id)).pinned_message
        if message is None:
            return None
        document = getattr(message, "document", None)  # an inaccessible message has none
        if document is None:
            return Pinned(chat_id, message.message_id, None, None)
        return Pinned(chat_id, message.message_id, document.file_id, document.file_name)

    async def pin(self, chat_id: int, message_id: int) -> None:
        """Without a notification to the chat's members."""
        with speaking_to_telegram("pin a document"):
            await self.bot.pin_chat_message(chat_id, message_id, disable_notification=True)

    async def unpin(self, chat_id: int, message_id: int) -> None:
        """A message that is gone, or was not pinned, is not pinned."""
        with speaking_to_telegram("unpin a document"):
            try:
                await self.bot.unpin_chat_message(chat_id, message_id)
            except BadRequest as error:
                if _NOT_FOUND not in error.message.lower():
                    raise

    async def delete(self, chat_id: int, message_id: int) -> bool:
        """True when the message is gone; False when it is too old for a bot to delete (48 h)."""
        with speaking_to_telegram("delete a document"):
            try:
                await self.bot.delete_message(chat_id, message_id)
            except BadRequest as error:
                if _TOO_OLD in error.message.lower():
                    return False
                if _NOT_FOUND not in error.message.lower():
                    raise
        return True
