"""Messages and files in one directory; all that survives a restart.

`methods` writes here and `inspection` reads.  The tables are SQLite's, file contents
lie beside them, named by their SHA-256.
"""

import base64
import secrets
import shutil
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Final, Self

from sandbox.bot_api.server_state import ServerState

_SCHEMA: Final = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS files (
        number INTEGER PRIMARY KEY,
        file_id TEXT NOT NULL UNIQUE,
        bot_id INTEGER NOT NULL,
        name TEXT NOT NULL,
        size INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        shown_of INTEGER REFERENCES files,
        linked_at REAL
    );
    CREATE INDEX IF NOT EXISTS shown ON files (shown_of, bot_id);
    CREATE TABLE IF NOT EXISTS messages (
        number INTEGER PRIMARY KEY,
        chat_id INTEGER NOT NULL,
        message_id INTEGER NOT NULL,
        bot_id INTEGER NOT NULL,
        file_number INTEGER REFERENCES files,
        caption TEXT NOT NULL,
        text TEXT NOT NULL,
        sent_at REAL NOT NULL,
        deleted INTEGER NOT NULL DEFAULT FALSE,
        pinned INTEGER NOT NULL DEFAULT FALSE,
        UNIQUE (chat_id, message_id)
    );
    CREATE INDEX IF NOT EXISTS sendings_to_a_chat ON messages (bot_id, chat_id, sent_at);
    CREATE INDEX IF NOT EXISTS sendings ON messages (bot_id, sent_at);
"""
_ADD_FILE: Final = """
    INSERT INTO files (file_id, bot_id, name, size, sha256) VALUES (?, ?, ?, ?, ?) RETURNING number
"""
_ADD_MESSAGE: Final = """
    INSERT INTO messages (chat_id, message_id, bot_id, file_number, caption, text, sent_at)
    SELECT ?1, coalesce(max(message_id), 0) + 1, ?2, ?3, ?4, ?5, ?6 FROM messages WHERE chat_id = ?1
    RETURNING number
"""
_REPLACE_DOCUMENT: Final = "UPDATE messages SET file_number = ?, caption = ? WHERE number = ?"
_MESSAGES: Final = """
    SELECT m.number, message_id, chat_id, m.bot_id, coalesce(file_id, ''), coalesce(name, ''),
           coalesce(size, 0), coalesce(sha256, ''), caption, text, CAST(sent_at AS INTEGER), deleted, pinned
      FROM messages AS m LEFT JOIN files AS f ON f.number = m.file_number
"""
_POSTS_OF_OTHERS: Final = """
    WHERE m.bot_id <> ? AND m.number > ? AND sent_at > ? AND NOT deleted ORDER BY m.number LIMIT ?
"""
_SHOW: Final = """
    INSERT INTO files (file_id, bot_id, name, size, sha256, shown_of)
    SELECT ?, ?, name, size, sha256, number FROM files WHERE file_id = ? RETURNING file_id
"""
_SHOWN: Final = """
    SELECT shown.file_id FROM files AS shown JOIN files AS sent ON sent.number = shown.shown_of
     WHERE sent.file_id = ? AND shown.bot_id = ?
"""
_NTH_NEWEST_SENDING: Final = """
    SELECT sent_at FROM messages WHERE bot_id = ?1 AND chat_id = ?2 ORDER BY sent_at DESC LIMIT 1 OFFSET ?3
"""
_NTH_NEWEST_OF_BOT: Final = """
    SELECT sent_at FROM messages WHERE bot_id = ? ORDER BY sent_at DESC LIMIT 1 OFFSET ?
"""
_FILES: Final = "SELECT number, file_id, name, size, sha256, linked_at FROM files WHERE bot_id = ?"


def unique_id(sha256: str) -> str:
    """The same for equal contents, whoever sent them."""
    return "AgAD" + base64.urlsafe_b64encode(bytes.fromhex(sha256)[:12]).decode()


def _new_file_id() -> str:
    return "BQAC" + secrets.token_urlsafe(48)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`number` counts the files of all bots and names the file in its download path.

    `linked_at` is when its link was last asked for, in seconds of the server's clock.
    """

    number: int
    file_id: str
    name: str
    size: int
    sha256: str
    linked_at: float | None = None

    @property
    def path(self) -> str:
        return f"documents/file_{self.number}{PurePath(self.name).suffix}"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """`number` counts the messages of all chats, `date` is in whole seconds of the server's clock.

    `file_size` is in bytes; a message of text has no file, and what belongs to one is empty or 0.
    """

    number: int
    message_id: int
    chat_id: int
    bot_id: int
    file_id: str
    file_name: str
    file_size: int
    sha256: str
    caption: str
    text: str
    date: int
    deleted: bool
    pinned: bool

    @classmethod
    def from_row(cls, row: tuple[int, int, int, int, str, str, int, str, str, str, int, int, int]) -> Self:
        return cls(*row[:11], bool(row[11]), bool(row[12]))


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
        self.state = ServerState(self._database)

    def close(self) -> None:
        self._database.close()

    def adopt(self, path: Path, sha256: str) -> None:
        """Move a received file to its place; equal contents share it."""
        path.replace(self.blob(sha256))

    def blob(self, sha256: str) -> Path:
        return self._blobs / sha256

    def add_document(
        self, chat_id: int, bot_id: int, *, name: str, size: int, sha256: str, caption: str
    ) -> StoredMessage:
        """Post the adopted contents under a new file_id."""
        with self._database:
            file = (_new_file_id(), bot_id, name, size, sha256)
            (file_number,) = self._database.execute(_ADD_FILE, file).fetchone()
            message = (chat_id, bot_id, file_number, caption, "", self.state.now())
            (number,) = self._database.execute(_ADD_MESSAGE, message).fetchone()
        return self._messages("WHERE m.number = ?", number)[0]

    def add_text(self, chat_id: int, bot_id: int, text: str) -> StoredMessage:
        with self._database:
            message = (chat_id, bot_id, None, "", text, self.state.now())
            (number,) = self._database.execute(_ADD_MESSAGE, message).fetchone()
        return self._messages("WHERE m.number = ?", number)[0]

    def replace_document(
        self, message: StoredMessage, *, name: str, size: int, sha256: str, caption: str
    ) -> StoredMessage:
        """Put the adopted contents in place of the message's own; what it held before keeps its file_id."""
        file = (_new_file_id(), message.bot_id, name, size, sha256)
        with self._database:
            (file_number,) = self._database.execute(_ADD_FILE, file).fetchone()
            self._database.execute(_REPLACE_DOCUMENT, (file_number, caption, message.number))
        return self._messages("WHERE m.number = ?", message.number)[0]

    def messages(self, chat_id: int) -> list[StoredMessage]:
        """All messages ever posted to the chat, deleted ones too, by id."""
        return self._messages("WHERE chat_id = ? ORDER BY message_id", chat_id)

    def message(self, chat_id: int, message_id: int) -> StoredMessage | None:
        """The message, None if it never was or is deleted."""
        found = self._messages("WHERE chat_id = ? AND message_id = ? AND NOT deleted", chat_id, message_id)
        return found[0] if found else None

    def newest_pin(self, chat_id: int) -> StoredMessage | None:
        """The pinned message that was posted last, whenever it was pinned."""
        newest = "WHERE chat_id = ? AND pinned AND NOT deleted ORDER BY message_id DESC LIMIT 1"
        found = self._messages(newest, chat_id)
        return found[0] if found else None

    def posts_of_others(self, bot_id: int, *, after: int, since: float, limit: int) -> list[StoredMessage]:
        """What other bots posted, by number, as this bot sees it."""
        found = self._messages(_POSTS_OF_OTHERS, bot_id, after, since, limit)
        return [self.seen_by(bot_id, message) for message in found]

    def seen_by(self, bot_id: int, message: StoredMessage) -> StoredMessage:
        """The message with the file_id that this bot may use: each bot has one of its own."""
        if message.bot_id == bot_id or not message.file_id:
            return message
        shown = self._database.execute(_SHOWN, (message.file_id, bot_id)).fetchone()
        if shown is None:
            with self._database:
                shown = self._database.execute(_SHOW, (_new_file_id(), bot_id, message.file_id)).fetchone()
        return replace(message, file_id=shown[0])

    def pin(self, message: StoredMessage) -> None:
        self._set("pinned", message)

    def unpin(self, message: StoredMessage) -> None:
        self._set("pinned", message, value=False)

    def delete(self, message: StoredMessage) -> None:
        """The message goes; its file_id keeps working."""
        self._set("deleted", message)

    def nth_newest_sending(self, bot_id: int, chat_id: int | None, *, n: int) -> float | None:
        """When the bot sent its `n`-th newest message, to the chat or at all; None if there are fewer."""
        if chat_id is None:
            row = self._database.execute(_NTH_NEWEST_OF_BOT, (bot_id, n - 1)).fetchone()
        else:
            row = self._database.execute(_NTH_NEWEST_SENDING, (bot_id, chat_id, n - 1)).fetchone()
        return None if row is None else float(row[0])

    def file(self, bot_id: int, file_id: str) -> StoredFile | None:
        return self._file(f"{_FILES} AND file_id = ?", bot_id, file_id)

    def link(self, file: StoredFile) -> None:
        """The file's download path is valid from now on."""
        with self._database:
            linked = (self.state.now(), file.number)
            self._database.execute("UPDATE files SET linked_at = ? WHERE number = ?", linked)

    def file_at(self, bot_id: int, path: str) -> StoredFile | None:
        """The bot's own file with this download path, valid or not."""
        number = PurePath(path).stem.removeprefix("file_")
        file = self._file(f"{_FILES} AND number = ?", bot_id, number)
        return file if file is not None and file.path == path else None

    def _messages(self, condition: str, *values: object) -> list[StoredMessage]:
        rows = self._database.execute(f"{_MESSAGES} {condition}", values)
        return [StoredMessage.from_row(row) for row in rows]

    def _file(self, query: str, *values: object) -> StoredFile | None:
        row = self._database.execute(query, values).fetchone()
        return None if row is None else StoredFile(*row)

    def _set(self, flag: str, message: StoredMessage, *, value: bool = True) -> None:
        with self._database:
            self._database.execute(
                f"UPDATE messages SET {flag} = ? WHERE number = ?", (value, message.number)
            )
