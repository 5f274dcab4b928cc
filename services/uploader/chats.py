"""Follows a group that became a supergroup, for the sender and the catalogue."""

import structlog

from shared.storage.database import Database
from shared.telegram.errors import ChatMoved

log = structlog.get_logger(__name__)


async def follow(database: Database, chat_id: int, move: ChatMoved) -> None:
    """Record it, so that every process posts to the new id from now on. Raises Unavailable."""
    async with database.session() as session:
        await session.chats.moved(chat_id, move.new_chat_id)
    log.warning(
        "the group became a supergroup, and is followed: set TELEGRAM_CHAT_ID",
        chat_id=chat_id,
        new_chat_id=move.new_chat_id,
    )
