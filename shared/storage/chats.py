"""Groups that became supergroups, which have another id: `control_plane.chat_moves`.

Who is told so by Telegram records it; from then on every process posts to the new one, whatever
TELEGRAM_CHAT_ID says.
"""

from shared.storage.executor import Executor

# A group moves once; five steps end what would be a circle.
NOW = """
    WITH RECURSIVE way AS (
        SELECT $1::bigint AS chat_id, 0 AS step
        UNION ALL
        SELECT move.new_chat_id, way.step + 1
          FROM way JOIN control_plane.chat_moves AS move USING (chat_id) WHERE way.step < 5
    )
    SELECT chat_id FROM way ORDER BY step DESC LIMIT 1
"""

MOVED = """
    INSERT INTO control_plane.chat_moves (chat_id, new_chat_id) VALUES ($1, $2)
    ON CONFLICT (chat_id) DO UPDATE SET new_chat_id = excluded.new_chat_id, moved_at = now()
     WHERE chat_moves.new_chat_id <> excluded.new_chat_id
"""


class Chats:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def now(self, chat_id: int) -> int:
        """The id that the chat has today."""
        return int(await self._executor.fetchval(NOW, chat_id))

    async def moved(self, chat_id: int, new_chat_id: int) -> None:
        await self._executor.execute(MOVED, chat_id, new_chat_id)
