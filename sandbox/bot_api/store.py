"""Messages, files and the server's clock in one directory; all that survives a restart.

`methods` writes here and `inspection` reads.  The tables are SQLite's, file contents
lie beside them, named by their SHA-256.
"""

import base64
import secrets
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, Self

_SCHEMA: Final = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS files (
        number INTEGER PRIMARY KEY,
        file_id TEXT NOT NULL UNIQUE,
        bot_id INTEGER NOT NULL,
        name TEXT NOT NULL,
        size INTEGER NOT NULL,
        sha256 TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS messages (
        chat_id INTEGER NOT NULL,
        message_id INTEGER NOT NULL,
        bot_id INTEGER NOT NULL,
        file_number INTEGER NOT NULL REFERENCES files,
        caption TEXT NOT NULL,
        sent_at REAL NOT NULL,
        deleted INTEGER NOT NULL DEFAULT FALSE,
        pinned INTEGER NOT NULL DEFAULT FALSE,
        PRIMARY KEY (chat_id, message_id)
    );
    CREATE INDEX IF NOT EXISTS sendings ON messages (bot_id, chat_id, sent_at);
    CREATE TABLE IF NOT EXISTS clock (advance_seconds REAL NOT NULL);
"""
_ADD_FILE: Final = """
    INSERT INTO files (file_id, bot_id, name, size, sha256) VALUES (?, ?, ?, ?, ?) RETURNING number
"""
_ADD_MESSAGE: Final = """
    INSERT INTO messages (chat_id, message_id, bot_id, file_number, caption, sent_at)
    SELECT ?1, coalesce(max(message_id), 0) + 1, ?2, ?3, ?4, ?5 FROM messages WHERE chat_id = ?1
    RETURNING message_id
"""
_REPLACE_DOCUMENT: Final = """
    UPDATE messages SET file_number = ?, caption = ? WHERE chat_id = ? AND message_id = ?
"""
_MESSAGES: Final = """
    SELECT message_id, chat_id, m.bot_id, file_id, name, size, sha256, caption,
           CAST(sent_at AS INTEGER), deleted, pinned
      FROM messages AS m JOIN files AS f ON f.number = m.file_number
     WHERE chat_id = ?
"""
_NTH_NEWEST_SENDING: Final = """
    SELECT sent_at FROM messages WHERE bot_id = ? AND chat_id = ? ORDER BY sent_at DESC LIMIT 1 OFFSET ?
"""
_FILES: Final = "SELECT number, file_id, name, size, sha256 FROM files WHERE bot_id = ?"


def unique_id(sha256: str) -> str:
    """The same for equal contents, whoever sent them."""
    return "AgAD" + base64.urlsafe_b64encode(bytes.fromhex(sha256)[:12]).decode()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`number` counts the files of all bots and names the file in its download path."""

    number: int
    file_id: str
    name: str
    size: int
    sha256: str

    @property
    def path(self) -> str:
        return f"documents/file_{self.number}{PurePath(self.name).suffix}"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """`date` is in whole seconds of the server's clock, `file_size` in bytes."""

    message_id: int
    chat_id: int
    bot_id: int
    file_id: str
    file_name: str
    file_size: int
    sha256: str
    caption: str
    date: int
    deleted: bool
    pinned: bool

    @classmethod
    def from_row(cls, row: tuple[int, int, int, str, str, int, str, str, int, int, int]) -> Self:
        return cls(*row[:9], bool(row[9]), bool(row[10]))


class Store:
    """One per process; calls are synchronous and each one is a transaction."""

    def __init__(self, directory: Path) -> None:
        self.incoming = directory / "incoming"
        self._blobs = directory / "blobs"
        shutil.rmtree(self.incoming, ignore_errors=True)  # uploads that a killed process left
        self.incoming.mkdir(parents=True)
        self._blobs.mkdir(exist_ok=True)
        self._database = sqlite3.connect(directory / "messages.sqlite3")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def now(self) -> float:
        """Seconds of the server's clock, which a test may have advanced."""
        (advance,) = self._database.execute("SELECT total(advance_seconds) FROM clock").fetchone()
        return time.time() + float(advance)

    def advance_clock(self, seconds: float) -> None:
        with self._database:
            self._database.execute("INSERT INTO clock VALUES (?)", (seconds,))

    def adopt(self, path: Path, sha256: str) -> None:
        """Move a received file to its place; equal contents share it."""
        path.replace(self.blob(sha256))

    def blob(self, sha256: str) -> Path:
        return self._blobs / sha256

    def add_message(
        self, chat_id: int, bot_id: int, *, name: str, size: int, sha256: str, caption: str
    ) -> StoredMessage:
        """Post the adopted contents under a new file_id."""
        file_id = "BQAC" + secrets.token_urlsafe(48)
        with self._database:
            file = (file_id, bot_id, name, size, sha256)
            (number,) = self._database.execute(_ADD_FILE, file).fetchone()
            message = (chat_id, bot_id, number, caption, self.now())
            (message_id,) = self._database.execute(_ADD_MESSAGE, message).fetchone()
        return self._messages(chat_id, "AND message_id = ?", message_id)[0]

    def replace_document(
        self, message: StoredMessage, *, name: str, size: int, sha256: str, caption: str
    ) -> StoredMessage:
        """Put the adopted contents in place of the message's own; what it held before keeps its file_id."""
        file = ("BQAC" + secrets.token_urlsafe(48), message.bot_id, name, size, sha256)
        with self._database:
            (number,) = self._database.execute(_ADD_FILE, file).fetchone()
            changed = (number, caption, message.chat_id, message.message_id)
            self._database.execute(_REPLACE_DOCUMENT, changed)
        return self._messages(message.chat_id, "AND message_id = ?", message.message_id)[0]

    def messages(self, chat_id: int) -> list[StoredMessage]:
        """All messages ever posted to the chat, deleted ones too, by id."""
        return self._messages(chat_id, "ORDER BY message_id")

    def message(self, chat_id: int, message_id: int) -> StoredMessage | None:
        """The message, None if it never was or is deleted."""
        found = self._messages(chat_id, "AND message_id = ? AND NOT deleted", message_id)
        return found[0] if found else None

    def newest_pin(self, chat_id: int) -> StoredMessage | None:
        """The pinned message that was posted last, whenever it was pinned."""
        found = self._messages(chat_id, "AND pinned AND NOT deleted ORDER BY message_id DESC LIMIT 1")
        return found[0] if found else None

    def pin(self, message: StoredMessage) -> None:
        self._set("pinned", message)

    def unpin(self, message: StoredMessage) -> None:
        self._set("pinned", message, value=False)

    def delete(self, message: StoredMessage) -> None:
        """The message goes; its file_id keeps working."""
        self._set("deleted", message)

    def nth_newest_sending(self, bot_id: int, chat_id: int, *, n: int) -> float | None:
        """When the bot sent its `n`-th newest message to the chat; None if there are fewer."""
        row = self._database.execute(_NTH_NEWEST_SENDING, (bot_id, chat_id, n - 1)).fetchone()
        return None if row is None else float(row[0])

    def file(self, bot_id: int, file_id: str) -> StoredFile | None:
        return self._file(f"{_FILES} AND file_id = ?", bot_id, file_id)

    def file_at(self, bot_id: int, path: str) -> StoredFile | None:
        """The bot's own file with this download path."""
        number = PurePath(path).stem.removeprefix("file_")
        file = self._file(f"{_FILES} AND number = ?", bot_id, number)
        return file if file is not None and file.path == path else None

    def _messages(self, chat_id: int, condition: str, *values: object) -> list[StoredMessage]:
        rows = self._database.execute(f"{_MESSAGES} {condition}", (chat_id, *values))
        return [StoredMessage.from_row(row) for row in rows]

    def _file(self, query: str, *values: object) -> StoredFile | None:
        row = self._database.execute(query, values).fetchone()
        return None if row is None else StoredFile(*row)

    def _set(self, flag: str, message: StoredMessage, *, value: bool = True) -> None:
        query = f"UPDATE messages SET {flag} = ? WHERE chat_id = ? AND message_id = ?"
        with self._database:
            self._database.execute(query, (value, message.chat_id, message.message_id))
