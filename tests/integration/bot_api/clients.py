"""The two kinds of clients that the stand-in has, python-telegram-bot and plain HTTP, and what they send."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypedDict, Unpack

import aiohttp
import telegram
from telegram.request import HTTPXRequest

from sandbox.bot_api.process import BotApi

TOKEN = "123456:first-bot"
OTHER_TOKEN = "654321:second-bot"
CHATS = range(-1001000000200, -1001000000100)


class Body(TypedDict, total=False):
    """What a raw call carries, in aiohttp's words."""

    params: dict[str, int]
    data: Any
    json: Any
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def refusal(self) -> tuple[int, int, str]:
        assert self.body["ok"] is False
        return self.status, self.body["error_code"], self.body["description"]


class RawClient:
    """Speaks HTTP itself, so that bodies and headers are seen as they are."""

    def __init__(self, api: BotApi, session: aiohttp.ClientSession) -> None:
        self.api = api
        self.session = session

    async def call(
        self, method: str, *, token: str = TOKEN, verb: str = "POST", **body: Unpack[Body]
    ) -> Answer:
        url = f"{self.api.base_url}{token}/{method}"
        async with self.session.request(verb, url, **body) as reply:
            return Answer(reply.status, dict(reply.headers), await reply.json())

    async def text(self, method: str, **body: Unpack[Body]) -> tuple[int, str, str]:
        """Status, content type and body of an answer that is no JSON."""
        async with self.session.post(f"{self.api.base_url}{TOKEN}/{method}", **body) as reply:
            return reply.status, reply.content_type, await reply.text()

    async def send(
        self, chat_id: int, content: bytes, *, name: str = "a.bin", caption: str = "", token: str = TOKEN
    ) -> Answer:
        form = aiohttp.FormData({"chat_id": str(chat_id), "caption": caption}, quote_fields=False)
        form.add_field("document", BytesIO(content), filename=name)
        return await self.call("sendDocument", token=token, data=form)

    async def download(self, path: str, *, token: str = TOKEN) -> tuple[int, bytes]:
        async with self.session.get(f"{self.api.base_file_url}{token}/{path}") as reply:
            return reply.status, await reply.read()


@asynccontextmanager
async def ptb_client(
    api: BotApi, token: str = TOKEN, *, local_mode: bool = False
) -> AsyncIterator[telegram.Bot]:
    request = HTTPXRequest(read_timeout=30, media_write_timeout=30, httpx_kwargs={"trust_env": False})
    bot = telegram.Bot(
        token,
        base_url=api.base_url,
        base_file_url=api.base_file_url,
        request=request,
        local_mode=local_mode,
    )
    async with bot:
        yield bot


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the condition; the test fails after five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.005)


def zeros(path: Path, size: int) -> Path:
    """A sparse file, which costs no disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


async def send_file(bot: telegram.Bot, chat_id: int, path: Path) -> str:
    """Stream the file from disk; return its file_id."""
    with path.open("rb") as file:
        document = telegram.InputFile(file, filename=path.name, read_file_handle=False)
        message = await bot.send_document(chat_id, document)
    assert message.document is not None
    return message.document.file_id


def multipart(chat_id: int, body_size: int) -> tuple[dict[str, str], AsyncIterator[bytes]]:
    """Headers and body of a sendDocument call whose body has exactly `body_size` bytes."""
    head = (
        f'--cut\r\nContent-Disposition: form-data; name="chat_id"\r\n\r\n{chat_id}\r\n'
        '--cut\r\nContent-Disposition: form-data; name="document"; filename="a.bin"\r\n\r\n'
    ).encode()
    tail = b"\r\n--cut--\r\n"

    async def body() -> AsyncIterator[bytes]:
        yield head
        left = body_size - len(head) - len(tail)
        while left > 0:
            yield bytes(min(left, 1 << 20))
            left -= 1 << 20
        yield tail

    return {"Content-Type": "multipart/form-data; boundary=cut"}, body()
