"""The Bot API stand-in as its two kinds of clients see it: python-telegram-bot and plain HTTP."""

import asyncio
import os
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, Unpack

import aiohttp
import pytest
import telegram
from telegram.error import BadRequest, EndPointNotFound, InvalidToken, NetworkError, RetryAfter
from telegram.request import HTTPXRequest

from sandbox.bot_api.file_name import clean_file_name
from sandbox.bot_api.process import BotApi

TOKEN = "123456:first-bot"
OTHER_TOKEN = "654321:second-bot"
CHATS = range(-1001000000200, -1001000000100)
MAX_DOWNLOAD_BYTES = 20_971_520
MAX_BODY_BYTES = 52_428_800


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
async def ptb_client(api: BotApi, token: str = TOKEN) -> AsyncIterator[telegram.Bot]:
    request = HTTPXRequest(read_timeout=30, media_write_timeout=30, httpx_kwargs={"trust_env": False})
    bot = telegram.Bot(token, base_url=api.base_url, base_file_url=api.base_file_url, request=request)
    async with bot:
        yield bot


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="bot-api-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def api(directory: Path) -> Iterator[BotApi]:
    """One stand-in without a message rule for all tests that need none of their own."""
    with BotApi(
        directory / "shared", tokens=[TOKEN, OTHER_TOKEN], chats=CHATS, messages_per_window=0
    ) as running:
        yield running


@pytest.fixture
def own_api(directory: Path, request: pytest.FixtureRequest) -> Iterator[BotApi]:
    """A stand-in with a rule of three messages a minute that the test may restart."""
    with BotApi(
        directory / request.node.name, tokens=[TOKEN, OTHER_TOKEN], chats=CHATS, messages_per_window=3
    ) as running:
        yield running


@pytest.fixture(scope="module")
def unused_chats() -> Iterator[int]:
    return iter(CHATS)


@pytest.fixture
def chat_id(unused_chats: Iterator[int]) -> int:
    return next(unused_chats)


@pytest.fixture(scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # A connection that is kept would be a dead one after a restart.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as opened:
        yield opened


@pytest.fixture(scope="module")
def raw(api: BotApi, session: aiohttp.ClientSession) -> RawClient:
    return RawClient(api, session)


@pytest.fixture(scope="module")
async def bot(api: BotApi) -> AsyncIterator[telegram.Bot]:
    async with ptb_client(api) as opened:
        yield opened


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


def peak_memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


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


# Sending and getting back


async def test_python_telegram_bot_gets_back_what_it_sent(bot: telegram.Bot, chat_id: int) -> None:
    """A document survives the round trip byte for byte, and its message says what was sent."""
    content = os.urandom(300_001)

    message = await bot.send_document(
        chat_id, content, filename="b7f3c2.p00012", caption="part", disable_content_type_detection=True
    )

    assert message.document is not None
    file = await bot.get_file(message.document)
    assert bytes(await file.download_as_bytearray()) == content
    assert message.document.file_name == "b7f3c2.p00012"
    assert message.document.file_size == file.file_size == len(content)
    assert message.document.file_unique_id == file.file_unique_id
    assert (message.caption, message.chat_id) == ("part", chat_id)
    assert message.sender_chat == message.chat


async def test_plain_http_gets_back_what_it_sent(raw: RawClient, chat_id: int) -> None:
    """The same round trip without a library, boundaries of the multipart body inside the content."""
    content = b"\r\n--" * 50_000 + os.urandom(100_000)

    message = (await raw.send(chat_id, content, name="a.tar.zst")).body["result"]
    file = (await raw.call("getFile", json={"file_id": message["document"]["file_id"]})).body["result"]

    assert file["file_path"].startswith("documents/file_")
    assert file["file_path"].endswith(".zst")
    assert await raw.download(file["file_path"]) == (200, content)
    assert message["chat"] == {"id": chat_id, "title": message["chat"]["title"], "type": "channel"}
    assert abs(message["date"] - time.time()) < 5


async def test_message_ids_grow_by_one_in_each_chat(
    bot: telegram.Bot, raw: RawClient, unused_chats: Iterator[int]
) -> None:
    """Every chat counts for itself, from 1, whoever sends."""
    chats = [next(unused_chats), next(unused_chats)]

    sent = [(await bot.send_document(chat, b"x")).message_id for chat in chats]
    sent += [(await raw.send(chat, b"x", token=OTHER_TOKEN)).body["result"]["message_id"] for chat in chats]

    assert sent == [1, 1, 2, 2]


async def test_a_document_can_be_attached_by_name(bot: telegram.Bot, api: BotApi, chat_id: int) -> None:
    """`attach://name` means the file part with that name."""
    attached = telegram.InputFile(b"attached", filename="a.bin", attach=True)

    await bot.send_document(chat_id, attached)

    assert [message.file_size for message in api.messages(chat_id)] == [len(b"attached")]


async def test_a_document_can_be_sent_again_by_its_file_id(bot: telegram.Bot, chat_id: int) -> None:
    """Each sending has a file_id of its own; equal contents share the file_unique_id."""
    first = await bot.send_document(chat_id, b"content", filename="a.bin")
    assert first.document is not None

    second = await bot.send_document(chat_id, first.document.file_id)

    assert second.document is not None
    assert second.document.file_id != first.document.file_id
    assert second.document.file_unique_id == first.document.file_unique_id
    assert (second.document.file_name, second.document.file_size) == ("a.bin", 7)


async def test_file_ids_and_paths_belong_to_one_bot(
    api: BotApi, bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """Another bot can use neither, though it sees the same file_unique_id for the same content."""
    mine = await bot.send_document(chat_id, b"content")
    theirs = (await raw.send(chat_id, b"content", token=OTHER_TOKEN)).body["result"]["document"]
    assert mine.document is not None
    path = (await raw.call("getFile", json={"file_id": mine.document.file_id})).body["result"]["file_path"]

    foreign = await raw.call("getFile", token=OTHER_TOKEN, json={"file_id": mine.document.file_id})

    assert theirs["file_unique_id"] == mine.document.file_unique_id
    assert foreign.refusal == (400, 400, "Bad Request: invalid file_id")
    assert (await raw.download(path))[0] == 200
    assert (await raw.download(path, token=OTHER_TOKEN))[0] == 404
    async with ptb_client(api, OTHER_TOKEN) as other_bot:
        with pytest.raises(BadRequest, match="Invalid file_id"):
            await other_bot.get_file(mine.document.file_id)
        with pytest.raises(BadRequest, match="Invalid file_id"):
            await other_bot.send_document(chat_id, mine.document.file_id)


async def test_an_unknown_file_path_is_not_found(bot: telegram.Bot, raw: RawClient) -> None:
    """A download that leads nowhere is a 404 in JSON, which python-telegram-bot calls InvalidToken."""
    gone = telegram.File("id", "unique", file_path=f"{raw.api.base_file_url}{TOKEN}/documents/file_9999.a")
    gone.set_bot(bot)

    status, body = await raw.download("documents/file_9999.a")

    assert (status, body) == (404, b'{"ok": false, "error_code": 404, "description": "Not Found"}')
    with pytest.raises(InvalidToken, match="Not Found"):
        await gone.download_as_bytearray()


# File names


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("b7f3c2.p00012", "b7f3c2.p00012"),
        ("s" * 70 + "." + "e" * 20, "s" * 64 + "." + "e" * 16),
        ("a<b>c:d&e'f.x", "a b c d e f.x"),
        ("dir/../back\\.hidden.txt", "hidden.txt"),
        (" . dump .sql. ", "dump .sql"),
        ("Ärger-№5_日本.sql", "Ärger- 5_日本.sql"),
        ("e\u0301\U0001f600.t", "e.t"),
        ("???", "file"),
        (".gz", "gz"),
    ],
)
def test_file_names_are_cleaned(sent: str, kept: str) -> None:
    """64 characters of stem, 16 of extension, no signs that a file system could mind."""
    assert clean_file_name(sent) == kept


async def test_the_reply_shows_the_cleaned_name(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """What was sent as a name isn't what is stored."""
    by_library = await bot.send_document(chat_id, b"x", filename="x" * 70 + ".part?")
    by_hand = await raw.send(chat_id, b"x", name="a:b.c*d")

    assert by_library.document is not None
    assert by_library.document.file_name == "x" * 64 + ".part"
    assert by_hand.body["result"]["document"]["file_name"] == "a b.c d"


# Limits


async def test_what_is_over_20_mib_can_be_sent_but_not_fetched(
    bot: telegram.Bot, raw: RawClient, chat_id: int, tmp_path: Path
) -> None:
    """Exactly 20 MiB come back; one byte more is stored and stays there."""
    sizes = (MAX_DOWNLOAD_BYTES, MAX_DOWNLOAD_BYTES + 1)
    ids = [await send_file(bot, chat_id, zeros(tmp_path / "a.bin", size)) for size in sizes]

    file = await bot.get_file(ids[0])
    assert len(await file.download_as_bytearray()) == MAX_DOWNLOAD_BYTES
    assert (await raw.call("getFile", json={"file_id": ids[0]})).status == 200
    with pytest.raises(BadRequest, match="File is too big"):
        await bot.get_file(ids[1])
    refused = await raw.call("getFile", json={"file_id": ids[1]})
    assert refused.refusal == (400, 400, "Bad Request: file is too big")


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_may_have_50_mib_with_its_overhead(
    raw: RawClient, chat_id: int, *, announced: bool
) -> None:
    """The limit counts the whole body, whether Content-Length announces it or chunks reveal it."""
    statuses = []
    for size in (MAX_BODY_BYTES, MAX_BODY_BYTES + 1):
        headers, body = multipart(chat_id, size)
        if announced:
            headers["Content-Length"] = str(size)
        answer = await raw.call("sendDocument", headers=headers, data=body)
        statuses.append(answer.status)

    assert statuses == [200, 413]
    assert answer.refusal == (413, 413, "Request Entity Too Large")
    assert len(raw.api.messages(chat_id)) == 1


async def test_python_telegram_bot_learns_that_a_file_is_too_large(
    bot: telegram.Bot, api: BotApi, chat_id: int, tmp_path: Path
) -> None:
    """A file of exactly 50 MiB is over the limit, since the multipart overhead counts."""
    with pytest.raises(NetworkError, match="Request Entity Too Large"):
        await send_file(bot, chat_id, zeros(tmp_path / "a.bin", MAX_BODY_BYTES))

    assert api.messages(chat_id) == []


async def test_a_document_is_refused_when_empty_or_missing(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """Neither leaves a message."""
    with pytest.raises(BadRequest, match="File must be non-empty"):
        await bot.send_document(chat_id, BytesIO(b""), filename="empty")

    empty = await raw.send(chat_id, b"")
    missing = await raw.call("sendDocument", json={"chat_id": chat_id})

    assert empty.refusal == (400, 400, "Bad Request: file must be non-empty")
    assert missing.refusal == (400, 400, "Bad Request: there is no document in the request")
    assert raw.api.messages(chat_id) == []


async def test_a_caption_has_at_most_1024_characters(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """Code points count, not bytes."""
    await bot.send_document(chat_id, b"x", caption="ü" * 1024)
    with pytest.raises(BadRequest, match="Message caption is too long"):
        await bot.send_document(chat_id, b"x", caption="ü" * 1025)

    refused = await raw.send(chat_id, b"x", caption="ü" * 1025)

    assert refused.refusal == (400, 400, "Bad Request: message caption is too long")
    assert [message.caption for message in raw.api.messages(chat_id)] == ["ü" * 1024]


async def test_messages_over_the_rule_are_refused_until_the_window_has_passed(
    own_api: BotApi, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three a minute for one bot in one chat; other bots and chats count apart, a restart forgets nothing."""
    monkeypatch.setenv("PTB_TIMEDELTA", "1")
    raw = RawClient(own_api, session)
    async with ptb_client(own_api) as bot:
        accepted = [(await raw.send(CHATS[0], b"x")).status for _ in range(3)]
        own_api.restart()
        refused = await raw.send(CHATS[0], b"x")
        with pytest.raises(RetryAfter) as flood:
            await bot.send_document(CHATS[0], b"x")
        elsewhere = await raw.send(CHATS[1], b"x"), await raw.send(CHATS[0], b"x", token=OTHER_TOKEN)
        own_api.advance_clock(refused.body["parameters"]["retry_after"])
        await bot.send_document(CHATS[0], b"x")

    assert accepted == [200, 200, 200]
    wait = refused.body["parameters"]["retry_after"]
    assert 50 <= wait <= 60
    assert refused.refusal == (429, 429, f"Too Many Requests: retry after {wait}")
    assert refused.headers["Retry-After"] == str(wait)
    assert timedelta(seconds=50) <= flood.value.retry_after <= timedelta(seconds=60)  # type: ignore[operator]
    assert [answer.status for answer in elsewhere] == [200, 200]


async def test_a_planned_flood_hits_the_next_calls_of_its_method(
    bot: telegram.Bot, raw: RawClient, chat_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as planned, with the planned wait; other methods go on."""
    monkeypatch.setenv("PTB_TIMEDELTA", "1")
    raw.api.flood("sendDocument", times=2, retry_after=7)

    refused = await raw.send(chat_id, b"x")
    await bot.get_chat(chat_id)
    with pytest.raises(RetryAfter) as flood:
        await bot.send_document(chat_id, b"x")
    accepted = await raw.send(chat_id, b"x")

    assert refused.refusal == (429, 429, "Too Many Requests: retry after 7")
    assert refused.body["parameters"] == {"retry_after": 7}
    assert refused.headers["Retry-After"] == "7"
    assert flood.value.retry_after == timedelta(seconds=7)
    assert accepted.body["result"]["message_id"] == 1


# Chats, pins, deletion


async def test_the_bot_is_an_administrator_of_its_chats(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """getMe, getChat and getChatMember have all that python-telegram-bot insists on."""
    chat = await bot.get_chat(chat_id)
    member = await bot.get_chat_member(chat_id, bot.id)
    me = (await raw.call("getMe", verb="GET")).body["result"]

    assert (chat.id, chat.type, chat.pinned_message) == (chat_id, "channel", None)
    assert isinstance(member, telegram.ChatMemberAdministrator)
    assert (member.can_post_messages, member.can_delete_messages, member.can_edit_messages) == (True,) * 3
    assert me["id"] == bot.id == 123456
    stranger = await raw.call("getChatMember", json={"chat_id": chat_id, "user_id": 1})
    assert stranger.refusal == (400, 400, "Bad Request: user not found")


async def test_other_chats_are_not_found(bot: telegram.Bot, raw: RawClient) -> None:
    """Only configured chats exist."""
    with pytest.raises(BadRequest, match="Chat not found"):
        await bot.send_document(-1009, b"x")

    assert (await raw.send(-1009, b"x")).refusal == (400, 400, "Bad Request: chat not found")
    assert (await raw.call("getChat")).refusal == (400, 400, "Bad Request: chat_id is empty")


async def test_a_chat_shows_the_pin_that_was_posted_last(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """The order of pinning doesn't matter; a deleted message is no pin."""
    first, second, _ = [(await bot.send_document(chat_id, b"x")).message_id for _ in range(3)]

    await bot.pin_chat_message(chat_id, second, disable_notification=True)
    await raw.call("pinChatMessage", json={"chat_id": chat_id, "message_id": first})
    by_library = (await bot.get_chat(chat_id)).pinned_message
    by_hand = (await raw.call("getChat", json={"chat_id": chat_id})).body["result"]["pinned_message"]
    await bot.delete_message(chat_id, second)
    after_deletion = (await bot.get_chat(chat_id)).pinned_message

    assert by_library is not None
    assert by_library.document is not None
    assert by_library.message_id == by_hand["message_id"] == second
    assert after_deletion is not None
    assert after_deletion.message_id == first
    assert [message.pinned for message in raw.api.messages(chat_id)] == [True, True, False]


async def test_pinning_needs_a_message(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """A message that isn't there cannot be pinned."""
    with pytest.raises(BadRequest, match="Message to pin not found"):
        await bot.pin_chat_message(chat_id, 5)

    unnamed = await raw.call("pinChatMessage", json={"chat_id": chat_id})
    assert unnamed.refusal == (400, 400, "Bad Request: message identifier is not specified")


async def test_a_deleted_message_is_gone_but_its_file_stays(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """A second deletion finds nothing; the file_id keeps working."""
    message = await bot.send_document(chat_id, b"content")
    assert message.document is not None

    assert await bot.delete_message(chat_id, message.message_id)

    with pytest.raises(BadRequest, match="Message to delete not found"):
        await bot.delete_message(chat_id, message.message_id)
    again = await raw.call("deleteMessage", json={"chat_id": chat_id, "message_id": message.message_id})
    assert again.refusal == (400, 400, "Bad Request: message to delete not found")
    assert await (await bot.get_file(message.document)).download_as_bytearray() == b"content"
    assert [stored.deleted for stored in raw.api.messages(chat_id)] == [True]


async def test_a_message_of_48_hours_cannot_be_deleted(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """The server's clock decides; just before, deletion still works."""
    young, old = [(await bot.send_document(chat_id, b"x")).message_id for _ in range(2)]

    raw.api.advance_clock(2 * 86_400 - 30)
    deleted = await raw.call("deleteMessage", json={"chat_id": chat_id, "message_id": young})
    raw.api.advance_clock(30)
    refused = await raw.call("deleteMessage", json={"chat_id": chat_id, "message_id": old})

    assert deleted.body == {"ok": True, "result": True}
    assert refused.refusal == (400, 400, "Bad Request: message can't be deleted")
    with pytest.raises(BadRequest, match="Message can't be deleted"):
        await bot.delete_message(chat_id, old)


# Tokens, methods, parameters


@pytest.mark.parametrize(
    ("token", "description"),
    [
        ("no-colon", "Unauthorized: invalid token specified"),
        ("0123:secret", "Unauthorized: invalid token specified"),
        ("bot:secret", "Unauthorized: invalid token specified"),
        ("777:unknown", "Unauthorized"),
    ],
)
async def test_a_wrong_token_is_unauthorized(raw: RawClient, token: str, description: str) -> None:
    """Malformed and unknown tokens are told apart, for calls and for downloads."""
    assert (await raw.call("getMe", token=token)).refusal == (401, 401, description)
    assert (await raw.download("documents/file_1.bin", token=token))[0] == 401

    with pytest.raises(InvalidToken):
        async with ptb_client(raw.api, token):
            pass


async def test_an_unknown_method_is_not_found(bot: telegram.Bot, raw: RawClient) -> None:
    """And so is a path that is no call at all."""
    with pytest.raises(EndPointNotFound):
        await bot.do_api_request("flyToTheMoon")

    assert (await raw.call("flyToTheMoon")).refusal == (404, 404, "Not Found: method not found")
    async with raw.session.get(f"{raw.api.url}/elsewhere") as reply:
        assert (await reply.json())["description"] == "Not Found"


@pytest.mark.parametrize("carrier", ["params", "data", "json", "multipart"])
@pytest.mark.parametrize("method", ["getChat", "getchat", "GETCHAT"])
async def test_parameters_come_in_any_carrier(
    raw: RawClient, chat_id: int, carrier: str, method: str
) -> None:
    """Query, urlencoded, JSON and multipart mean the same, and so do all spellings of a method."""
    if carrier == "multipart":
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("chat_id", str(chat_id))
        answer = await raw.call(method, data=form)
    elif carrier == "params":
        answer = await raw.call(method, verb="GET", params={"chat_id": chat_id})
    elif carrier == "data":
        answer = await raw.call(method, data={"chat_id": chat_id})
    else:
        answer = await raw.call(method, json={"chat_id": chat_id})

    assert answer.body["result"]["id"] == chat_id


@pytest.mark.parametrize(
    ("content_type", "body"), [("application/json", b"[1]"), ("multipart/form-data; boundary=cut", b"--cu")]
)
async def test_a_body_that_cannot_be_parsed_is_a_bad_request(
    raw: RawClient, content_type: str, body: bytes
) -> None:
    """The answer is the service's error shape, not a stack trace."""
    answer = await raw.call("getMe", headers={"Content-Type": content_type}, data=body)

    assert answer.refusal[:2] == (400, 400)


async def test_answers_are_counted_by_method_and_status(raw: RawClient) -> None:
    """Whatever the spelling; downloads count as "file"."""
    before = raw.api.calls()

    await raw.call("getMe")
    await raw.call("GETME")
    await raw.call("getMe", token="777:unknown")
    await raw.call("flyToTheMoon")
    await raw.download("documents/file_9999.a")

    after = raw.api.calls()
    expected = {("getMe", 200): 2, ("getMe", 401): 1, ("unknown", 404): 1, ("file", 404): 1}
    assert {
        (method, status): after[method][status] - before.get(method, {}).get(status, 0)
        for method, status in expected
    } == expected


# Holding calls back


@pytest.fixture
def releasing(api: BotApi) -> Iterator[None]:
    yield
    api.release()


@pytest.mark.usefixtures("releasing")
async def test_a_held_call_stores_nothing_until_it_is_released(
    bot: telegram.Bot, api: BotApi, chat_id: int
) -> None:
    """One more success is allowed; the next call waits, while other methods go on."""
    api.hold_after("sendDocument", 1)

    await bot.send_document(chat_id, b"first")
    waiting = asyncio.create_task(bot.send_document(chat_id, b"second"))
    await until(lambda: api.held("sendDocument") == 1)
    await bot.get_chat(chat_id)
    stored_while_held = len(api.messages(chat_id))
    api.release()

    assert (await waiting).message_id == 2
    assert stored_while_held == 1
    assert api.held("sendDocument") == 0


@pytest.mark.usefixtures("releasing")
@pytest.mark.parametrize("client", ["library", "plain"])
async def test_a_client_that_leaves_while_held_stores_nothing(
    api: BotApi, raw: RawClient, chat_id: int, directory: Path, client: str
) -> None:
    """Its file is removed too."""
    api.hold_after("sendDocument", 0)

    async with ptb_client(api) as bot:
        content = os.urandom(3_000_000)
        sending = bot.send_document(chat_id, content) if client == "library" else raw.send(chat_id, content)
        call = asyncio.ensure_future(sending)
        await until(lambda: api.held("sendDocument") == 1)
        call.cancel()
        await until(lambda: api.held("sendDocument") == 0)
    api.release()

    await until(lambda: list((directory / "shared/incoming").iterdir()) == [])
    assert api.messages(chat_id) == []


async def test_an_upload_that_breaks_off_stores_nothing(
    raw: RawClient, chat_id: int, directory: Path
) -> None:
    """Half a body leaves neither a message nor a file."""
    incoming = directory / "shared/incoming"

    async def half() -> AsyncIterator[bytes]:
        _, body = multipart(chat_id, 10_000_000)
        for _ in range(3):
            yield await anext(body)
        await until(lambda: list(incoming.iterdir()) != [])
        raise ConnectionError

    headers, _ = multipart(chat_id, 0)
    with pytest.raises(aiohttp.ClientError):
        await raw.call("sendDocument", headers=headers, data=half())

    await until(lambda: list(incoming.iterdir()) == [])
    assert raw.api.messages(chat_id) == []


# The process


async def test_messages_and_files_survive_a_crash(own_api: BotApi, session: aiohttp.ClientSession) -> None:
    """On the same port, with the same ids, files, pins and clock."""
    raw = RawClient(own_api, session)
    chat_id = CHATS[0]
    sent = (await raw.send(chat_id, b"content", caption="part")).body["result"]
    await raw.call("pinChatMessage", json={"chat_id": chat_id, "message_id": sent["message_id"]})
    before = own_api.messages(chat_id), own_api.url
    own_api.advance_clock(1000)

    own_api.kill()
    own_api.start()

    assert (own_api.messages(chat_id), own_api.url) == before
    chat = (await raw.call("getChat", json={"chat_id": chat_id})).body["result"]
    assert chat["pinned_message"] == sent
    path = (await raw.call("getFile", json={"file_id": sent["document"]["file_id"]})).body["result"][
        "file_path"
    ]
    assert await raw.download(path) == (200, b"content")
    later = (await raw.send(chat_id, b"x")).body["result"]
    assert later["message_id"] == sent["message_id"] + 1
    assert later["date"] - time.time() > 900


async def test_sigterm_ends_the_process_cleanly(own_api: BotApi, session: aiohttp.ClientSession) -> None:
    """Exit code 0, a held call notwithstanding; what was held isn't stored."""
    raw = RawClient(own_api, session)
    own_api.hold_after("sendDocument", 0)
    held = asyncio.create_task(raw.send(CHATS[0], b"x"))
    await until(lambda: own_api.held("sendDocument") == 1)

    code = await asyncio.to_thread(own_api.stop)

    assert code == 0
    with pytest.raises(aiohttp.ClientError):
        await held
    own_api.start()
    assert own_api.messages(CHATS[0]) == []


def test_the_process_ends_with_its_parent(directory: Path) -> None:
    """Even a parent that is killed leaves no server behind."""
    program = (
        "import sys; from pathlib import Path; from sandbox.bot_api.process import BotApi;"
        f"api = BotApi(Path({str(directory / 'orphan')!r}), tokens=[{TOKEN!r}], chats=[-1]);"
        "api.start(); print(api.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()

    try:
        assert select.select([server], [], [], 5)[0] == [server]
    finally:
        os.close(server)


async def test_memory_does_not_grow_with_what_is_stored(
    bot: telegram.Bot, api: BotApi, chat_id: int, tmp_path: Path
) -> None:
    """200 MB of uploads, two at a time, stay far under 100 MiB."""
    path = zeros(tmp_path / "a.bin", 20_000_000)

    for _ in range(5):
        await asyncio.gather(*(send_file(bot, chat_id, path) for _ in range(2)))

    assert sum(message.file_size for message in api.messages(chat_id)) == 200_000_000
    assert peak_memory_mib(api.pid) < 80
