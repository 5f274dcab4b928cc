"""Sends a file as a document, and brings a document back.

The uploader sends, `pgferry backups fetch` brings back. One `TelegramChatStore` serves one bot.
"""

import asyncio
import hashlib
import io
import os
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import telegram
from telegram import InputFile

from shared.contracts.errors import PermanentError, TemporaryError, Unavailable
from shared.runtime.process import Fatal
from shared.runtime.store_settings import StoreSettings
from shared.telegram.errors import FloodWait, LinkExpired, WrongReceipt, speaking_to_telegram
from shared.telegram.request import Request
from shared.telegram.window import CheckedWindow, Window

#: A bot may send 50 MB but gets back only 20 MiB (tdlib/telegram-bot-api, MAX_DOWNLOAD_FILE_SIZE).
MAX_DOWNLOAD_BYTES = 20 * 1024 * 1024

#: After the body was sent Telegram still copies it to its own store; an early give-up is a duplicate.
ANSWER_SECONDS = 300.0
CONNECT_SECONDS = 10.0

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class SentDocument:
    """Telegram's receipt; ids are valid for the sending bot only, `posted_at` is by Telegram's clock."""

    chat_id: int
    message_id: int
    file_id: str
    file_unique_id: str
    posted_at: datetime = field(compare=False)


@dataclass(frozen=True, slots=True)
class TelegramChatStore:
    bot: telegram.Bot = field(repr=False)  # its repr is the token
    downloads: httpx.AsyncClient

    async def introduce(self) -> None:
        """Ask Telegram who this bot is; first of all calls.

        Raises Fatal for a token that Telegram does not know, Unavailable when Telegram is not reached.
        """
        try:
            await _asked(self.bot.initialize, "say who the bot is")
        except PermanentError as error:
            raise Fatal(f"TELEGRAM_BOT_TOKEN: {error.sentence}") from error
        except TemporaryError as error:
            raise Unavailable("telegram", error.sentence) from error

    async def probe(self) -> None:
        """The cheapest call there is. Raises a Failure; who is asked to wait was answered."""
        with suppress(FloodWait), speaking_to_telegram("say who the bot is"):
            await self.bot.get_me()

    @property
    def bot_id(self) -> int:
        return self.bot.id

    @property
    def bot_name(self) -> str:
        return f"@{self.bot.username}"

    async def describe(self, chat_id: int) -> str:
        """What kind of chat it is, and its title. Raises FloodWait or a Failure."""
        with speaking_to_telegram("show the chat"):
            chat = await self.bot.get_chat(chat_id)
        return f"{chat.type} {chat.title or ''}".strip()

    async def send(
        self,
        path: Path,
        *,
        chat_id: int,
        filename: str,
        caption: str | None,
        sha256: str | None = None,
    ) -> SentDocument:
        """Send a whole file; memory stays at one 64 KiB piece. With `sha256`, send no other bytes.

        Raises FloodWait, PermanentError, Unavailable when Telegram is not reached, or TemporaryError;
        `errors.may_be_done` tells whether the message may be there all the same.
        """
        size = path.stat().st_size  # noqa: ASYNC240 - one local stat
        with path.open("rb", buffering=0) as file:
            window = CheckedWindow(file, size, sha256) if sha256 else Window(file, size)
            return await self._sent(window, size, chat_id=chat_id, filename=filename, caption=caption)

    async def send_bytes(
        self, content: bytes, *, chat_id: int, filename: str, caption: str | None
    ) -> SentDocument:
        """As `send`, of what lies in memory, and leaves nothing on the disk."""
        window = Window(io.BytesIO(content), len(content))
        return await self._sent(window, len(content), chat_id=chat_id, filename=filename, caption=caption)

    async def _sent(
        self, window: Window, size: int, *, chat_id: int, filename: str, caption: str | None
    ) -> SentDocument:
        with speaking_to_telegram(f"take {filename}"):
            message = await self.bot.send_document(
                chat_id,
                InputFile(window, filename=filename, read_file_handle=False),  # type: ignore[arg-type]
                caption=caption,
                disable_content_type_detection=True,
                disable_notification=True,
            )
        return _receipt(message, chat_id=chat_id, size=size)

    async def fetch(self, file_id: str, target: Path, *, size_bytes: int | None = None) -> str:
        """Write the document to `target` and return its SHA-256; the caller compares.

        Raises TemporaryError when the document cannot be had now or comes short, Unavailable when Telegram
        is not reached, PermanentError when it will not give the document to this bot.
        """
        digest = hashlib.sha256()
        received = 0
        url = await self._link(file_id)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as output:  # noqa: ASYNC230, PTH123 - a local descriptor
            async for piece in self._content(file_id, url):
                digest.update(piece)
                received += len(piece)
                output.write(piece)
        if size_bytes is not None and received != size_bytes:
            raise TemporaryError(
                "telegram_download_short", f"Telegram gave {received} of {size_bytes} bytes of a document."
            )
        return digest.hexdigest()

    async def fetch_bytes(self, file_id: str) -> bytes:
        """As `fetch`, into memory: for a document of our own that is known to be small."""
        return b"".join([piece async for piece in self._content(file_id, await self._link(file_id))])

    async def _link(self, file_id: str) -> str:
        file = await _asked(partial(self.bot.get_file, file_id), "give back a document")
        return str(file.file_path)

    async def _content(self, file_id: str, url: str) -> AsyncIterator[bytes]:
        """By this link, or by another one if it has expired meanwhile."""
        try:
            async for piece in self._pieces(url):
                yield piece
        except LinkExpired:
            async for piece in self._pieces(await self._link(file_id)):
                yield piece

    async def _pieces(self, url: str) -> AsyncIterator[bytes]:
        """Stream a file link. Its URL holds the token, so no error of the HTTP library is passed on."""
        try:
            async with self.downloads.stream("GET", url) as response:
                if response.status_code == httpx.codes.NOT_FOUND:
                    raise LinkExpired("telegram_download_failed", "A link to a document has expired.")
                if response.status_code != httpx.codes.OK:
                    raise TemporaryError(
                        "telegram_download_failed",
                        f"Telegram answered {response.status_code} to the download of a document.",
                    )
                async for piece in response.aiter_bytes():
                    yield piece
        except httpx.HTTPError as error:
            raise TemporaryError(
                "telegram_download_failed", f"The download of a document broke off: {type(error).__name__}."
            ) from None


@asynccontextmanager
async def open_telegram(
    token: str, api_url: str, *, answer_seconds: float = ANSWER_SECONDS
) -> AsyncIterator[TelegramChatStore]:
    """Speak to `api_url` as the bot of this token, for the time of the block.

    `answer_seconds` is the wait for an answer, and for each step of a body that is not taken.
    """
    warnings.filterwarnings(
        "ignore", message=".*retry_after.*", category=telegram.warnings.PTBDeprecationWarning
    )
    request = Request(
        connection_pool_size=16,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=answer_seconds,
        write_timeout=answer_seconds,
        media_write_timeout=answer_seconds,
        pool_timeout=None,
    )
    base = api_url.rstrip("/")
    bot = telegram.Bot(token, base_url=f"{base}/bot", base_file_url=f"{base}/file/bot", request=request)
    timeout = httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(timeout=timeout) as downloads:
        try:
            yield TelegramChatStore(bot, downloads)
        finally:
            await bot.shutdown()


def telegram_of(settings: StoreSettings) -> AbstractAsyncContextManager[TelegramChatStore]:
    """`open_telegram` as the settings say."""
    return open_telegram(
        settings.bot_token.get_secret_value(),
        settings.telegram_api_url,
        answer_seconds=settings.answer_seconds,
    )


async def _asked(call: Callable[[], Awaitable[Reply]], what: str) -> Reply:
    """Make a call that changes nothing, waiting as long as Telegram asks."""
    while True:
        try:
            with speaking_to_telegram(what):
                return await call()
        except FloodWait as wait:
            await asyncio.sleep(wait.seconds)


def _receipt(message: telegram.Message, *, chat_id: int, size: int) -> SentDocument:
    """Believe only an answer that names the document, its size and the chat."""
    document = message.document
    if document is None or document.file_size != size or message.chat.id != chat_id:
        raise WrongReceipt(
            "telegram_wrong_receipt",
            "Telegram's answer does not show the document that was sent (kind, size or chat differ).",
        )
    return SentDocument(
        chat_id=message.chat.id,
        message_id=message.message_id,
        file_id=document.file_id,
        file_unique_id=document.file_unique_id,
        posted_at=message.date,
    )
