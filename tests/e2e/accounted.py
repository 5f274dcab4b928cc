"""Whether every document in a chat is one that the control plane knows of."""

from collections import Counter
from collections.abc import Iterable, Sequence

import asyncpg

from sandbox.bot_api.process import BotApi
from sandbox.bot_api.store import StoredMessage

#: What a bot leaves where it may not delete.
TOMBSTONE = "removed.txt"

# Parts and manifests of live backups and of jobs under way, what is to be deleted, and the catalogues.
_KNOWN = """
    SELECT chat_id, message_id FROM control_plane.backup_parts AS part
     WHERE message_id IS NOT NULL AND status IN ('sent', 'superseded')
    UNION ALL
    SELECT chat_id, message_id FROM control_plane.catalogues WHERE message_id IS NOT NULL
"""
# A row that is `sending` becomes a suspected send when its document is sent again, or given up.
_SUSPECTED = """
    SELECT chat_id, sha256 FROM control_plane.suspected_sends WHERE resolved_at IS NULL
    UNION ALL
    SELECT chat_id, sha256 FROM control_plane.backup_parts WHERE status = 'sending'
"""


async def require_accounted(connection: asyncpg.Connection, api: BotApi, chats: Iterable[int]) -> None:
    """Each row's document is there; of the others, at most one for each suspected send."""
    there = [message for chat_id in chats for message in api.messages(chat_id) if _is_document(message)]
    known = [tuple(row) for row in await connection.fetch(_KNOWN)]
    assert len(set(known)) == len(known), "a document that two rows name"
    places = {(message.chat_id, message.message_id) for message in there}
    assert set(known) <= places, "a row whose document is not in the chat"
    suspected = Counter(tuple(row) for row in await connection.fetch(_SUSPECTED))
    unknown = Counter(
        (message.chat_id, message.sha256)
        for message in there
        if (message.chat_id, message.message_id) not in known
    )
    assert unknown <= suspected, f"documents that nobody knows of: {unknown - suspected}"


def names(api: BotApi, chats: Sequence[int]) -> list[str]:
    """What is in the chats: `p00000` or `manifest`, in order."""
    messages = [message for chat_id in chats for message in api.messages(chat_id) if _is_document(message)]
    return [message.file_name.rpartition(".")[2] for message in messages]


def _is_document(message: StoredMessage) -> bool:
    return not message.deleted and message.file_name != TOMBSTONE
