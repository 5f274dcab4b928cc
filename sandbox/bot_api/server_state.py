"""What the server knows apart from messages and files: its clock, upgraded chats, bots that logged out.

Lies in the store's database, so that a restart forgets nothing.
"""

import sqlite3
import time
from typing import Final

_LOGGED_OUT_SECONDS: Final = 600
"""After `logOut` a bot cannot come back sooner (the Bot API's documentation of the method)."""

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS clock (advance_seconds REAL NOT NULL);
    CREATE TABLE IF NOT EXISTS upgrades (chat_id INTEGER PRIMARY KEY, new_chat_id INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS logged_out (bot_id INTEGER PRIMARY KEY, at REAL NOT NULL);
    CREATE TABLE IF NOT EXISTS confirmed (bot_id INTEGER PRIMARY KEY, update_id INTEGER NOT NULL);
"""


class ServerState:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._database.executescript(_SCHEMA)

    def now(self) -> float:
        """Seconds of the server's clock, which a test may have advanced."""
        return time.time() + float(self._value("SELECT total(advance_seconds) FROM clock") or 0)

    def advance_clock(self, seconds: float) -> None:
        self._write("INSERT INTO clock VALUES (?)", seconds)

    def upgrade(self, chat_id: int, new_chat_id: int) -> None:
        """The group becomes a supergroup, which has another id."""
        self._write("INSERT OR REPLACE INTO upgrades VALUES (?, ?)", chat_id, new_chat_id)

    def upgraded(self, chat_id: int) -> int | None:
        """The chat's new id, if it has one."""
        return self._value("SELECT new_chat_id FROM upgrades WHERE chat_id = ?", chat_id)

    def is_supergroup(self, chat_id: int) -> bool:
        """Whether the chat came to be by an upgrade."""
        return self._value("SELECT chat_id FROM upgrades WHERE new_chat_id = ?", chat_id) is not None

    def log_out(self, bot_id: int) -> None:
        self._write("INSERT OR REPLACE INTO logged_out VALUES (?, ?)", bot_id, self.now())

    def is_logged_out(self, bot_id: int) -> bool:
        since = self.now() - _LOGGED_OUT_SECONDS
        return self._value("SELECT 1 FROM logged_out WHERE bot_id = ? AND at > ?", bot_id, since) is not None

    def confirm(self, bot_id: int, update_id: int) -> None:
        """The bot has seen all updates up to this one; it gets them no more."""
        newest = max(update_id, self.seen(bot_id))
        self._write("INSERT OR REPLACE INTO confirmed VALUES (?, ?)", bot_id, newest)

    def seen(self, bot_id: int) -> int:
        """The newest update that the bot has confirmed, 0 if it has none."""
        return self._value("SELECT update_id FROM confirmed WHERE bot_id = ?", bot_id) or 0

    def _value(self, query: str, *values: object) -> int | None:
        row = self._database.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _write(self, statement: str, *values: object) -> None:
        with self._database:
            self._database.execute(statement, values)
