"""The client of the chat: what it sends and brings back, and what each answer means for a job.

The stand-in answers as the real service does; where it never would, a server of a few lines does.
"""

import asyncio
import hashlib
import os
import time
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web

from sandbox.bot_api.process import BotApi
from sandbox.bot_api.store import unique_id
from sandbox.ports import free_port
from shared.contracts.errors import Failure, PermanentError, TemporaryError, Unavailable
from shared.runtime.admin import serving
from shared.runtime.process import Fatal
from shared.telegram.client import SentDocument, TelegramChatStore, open_telegram
from shared.telegram.errors import (
    AnswerLost,
    ChatMoved,
    FloodWait,
    LinkExpired,
    LostInOutage,
    NotAsWritten,
    WrongReceipt,
    may_be_done,
)
from shared.telegram.request import FAILURES_IN_A_ROW
from tests.conftest import BOT_TOKEN, CHATS
from tests.waiting import eventually

UNKNOWN_TOKEN = "7000002:AAE-revoked-token-of-nobody-0123456789ab"
CHAT = CHATS[-1]
PART_BYTES = 19 * 1024 * 1024
MEMORY_BYTES = 4 * 1024 * 1024

CONTENT = bytes(range(250)) * 12
#: The client silences the library when it is opened; pytest undoes that after each test.
QUIET = pytest.mark.filterwarnings("ignore:.*retry_after.*:telegram.warnings.PTBDeprecationWarning")
FAILURES = (Failure, FloodWait, Fatal)
Error = TypeVar("Error", bound=BaseException)


@pytest.fixture(scope="module")
async def store(bot_api: BotApi) -> AsyncIterator[TelegramChatStore]:
    """The bot of the stand-in's token; opened once, for each client makes its own TLS contexts."""
    async with open_telegram(BOT_TOKEN, bot_api.url) as store:
        await store.introduce()
        yield store


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "part-00000"
    path.write_bytes(CONTENT)
    return path


async def failed(work: Awaitable[object], kind: type[Error]) -> Error:
    """How it failed; the bot's token is in nothing that a log would show of it."""
    with pytest.raises(FAILURES) as raised:
        await work
    error = raised.value
    assert type(error) is kind, repr(error)
    shown = "".join([str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)])
    assert not [token for token in (BOT_TOKEN, UNKNOWN_TOKEN) if token.partition(":")[2] in shown]
    return error


async def send(
    store: TelegramChatStore, path: Path, *, chat_id: int = CHAT, caption: str | None = None
) -> SentDocument:
    return await store.send(path, chat_id=chat_id, filename="acme.p00000", caption=caption)


async def is_held(bot_api: BotApi) -> bool:
    return bot_api.held("sendDocument") > 0


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Server:
    """Knows the bot, and answers everything else as it was told."""

    answer: Answer

    async def told(self, request: web.Request) -> web.StreamResponse:
        return await self.answer(request)


@pytest.fixture(scope="module")
def server() -> Server:
    return Server(plain(500, "not told"))


@pytest.fixture(scope="module")
async def its_client(server: Server) -> AsyncIterator[TelegramChatStore]:
    app = web.Application()
    app.router.add_route("*", "/{bot}/getMe", _get_me)
    app.router.add_route("*", "/{path:.*}", server.told)
    port = free_port()
    async with (
        serving(app, "127.0.0.1", port),
        open_telegram(BOT_TOKEN, f"http://127.0.0.1:{port}") as store,
    ):
        await store.introduce()
        yield store


async def _get_me(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"ok": True, "result": {"id": 7000001, "is_bot": True, "first_name": "b"}})


def refusal(code: int, description: str, **parameters: object) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        body = {"ok": False, "error_code": code, "description": description}
        return web.json_response(body | ({"parameters": parameters} if parameters else {}), status=code)

    return answer


def plain(code: int, text: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(status=code, text=text, content_type="text/html")

    return answer


def receipt(*, chat_id: int = CHAT, **media: object) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        chat = {"id": chat_id, "title": "t", "type": "channel"}
        return web.json_response({"ok": True, "result": {"message_id": 5, "date": 1, "chat": chat, **media}})

    return answer


def document(size: int) -> dict[str, object]:
    return {"file_id": "BQAC", "file_unique_id": "AgAD", "file_size": size}


# What is sent


async def test_the_receipt_names_the_message_that_is_in_the_chat(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, part: Path
) -> None:
    """Under this name, with this caption, and silently nothing else."""
    sent = await send(store, part, chat_id=chat_id, caption="part 1 of 1")

    [message] = bot_api.messages(chat_id)
    posted_at = datetime.fromtimestamp(message.date, UTC)
    expected = (chat_id, message.message_id, message.file_id, unique_id(message.sha256), posted_at)
    assert astuple(sent) == expected
    assert (message.file_name, message.caption) == ("acme.p00000", "part 1 of 1")
    assert message.bot_id == store.bot_id


async def test_exactly_the_files_bytes_are_in_the_chat(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, tmp_path: Path
) -> None:
    """Sizes around the pieces of 64 KiB that the HTTP library reads."""
    contents = [os.urandom(size) for size in (1, 65_535, 65_536, 65_537, 200_001)]
    for number, content in enumerate(contents):
        path = tmp_path / str(number)
        path.write_bytes(content)
        await send(store, path, chat_id=chat_id)

    assert [(message.file_size, message.sha256) for message in bot_api.messages(chat_id)] == [
        (len(content), hashlib.sha256(content).hexdigest()) for content in contents
    ]


@pytest.mark.parametrize("size", [1, 65_536, 200_001])
async def test_a_file_that_is_not_as_it_was_written_never_is_in_the_chat(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, tmp_path: Path, size: int
) -> None:
    """No request of it is whole, so nothing needs to be suspected; what comes next is sent."""
    content, path = os.urandom(size), tmp_path / "altered"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    give = partial(store.send, path, chat_id=chat_id, filename="acme.p00000", caption=None)
    sha256 = hashlib.sha256(content).hexdigest()

    for _ in range(FAILURES_IN_A_ROW):  # none of which is Telegram's
        error = await failed(give(sha256=sha256), NotAsWritten)
        assert not may_be_done(error)
    path.write_bytes(content)
    await give(sha256=sha256)

    assert [message.sha256 for message in bot_api.messages(chat_id)] == [sha256]


async def test_several_are_sent_at_once(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, part: Path
) -> None:
    """One bot serves all slots of a process."""
    sent = await asyncio.gather(*(send(store, part, chat_id=chat_id) for _ in range(8)))

    assert {document.message_id for document in sent} == {
        message.message_id for message in bot_api.messages(chat_id)
    }
    assert len(bot_api.messages(chat_id)) == 8


# What comes back


async def test_a_document_comes_back_as_it_was_sent(
    store: TelegramChatStore, chat_id: int, part: Path, tmp_path: Path
) -> None:
    """With its hash, and readable by nobody else."""
    sent = await send(store, part, chat_id=chat_id)
    target = tmp_path / "back"

    sha256 = await store.fetch(sent.file_id, target, size_bytes=3000)

    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o600


async def test_what_was_there_before_is_overwritten(
    store: TelegramChatStore, chat_id: int, part: Path, tmp_path: Path
) -> None:
    """A second try begins anew."""
    sent = await send(store, part, chat_id=chat_id)
    target = tmp_path / "back"
    target.write_bytes(b"x" * 5000)

    await store.fetch(sent.file_id, target, size_bytes=3000)

    assert target.read_bytes() == CONTENT


async def test_a_document_of_another_size_is_not_the_one(
    store: TelegramChatStore, chat_id: int, part: Path, tmp_path: Path
) -> None:
    """It may be whole the next time."""
    sent = await send(store, part, chat_id=chat_id)

    error = await failed(store.fetch(sent.file_id, tmp_path / "back", size_bytes=3001), TemporaryError)

    assert error.code == "telegram_download_short"
    assert "3000 of 3001" in error.sentence


async def test_a_file_id_that_is_not_this_bots_is_refused(store: TelegramChatStore, tmp_path: Path) -> None:
    """Ids are the sending bot's own; nothing is written."""
    error = await failed(store.fetch("BQACunknown", tmp_path / "back"), PermanentError)

    assert error.code == "telegram_bad_request"
    assert not (tmp_path / "back").exists()


def file_of(content: Answer) -> Answer:
    """GetFile succeeds; the download itself is `content`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/file/"):
            return await content(request)
        file = {"file_id": "BQAC", "file_unique_id": "AgAD", "file_path": "documents/file_1"}
        return web.json_response({"ok": True, "result": file})

    return answer


async def _breaks_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "3000"})
    await response.prepare(request)
    await response.write(b"x" * 1000)
    assert request.transport is not None
    request.transport.close()
    return response


@pytest.mark.parametrize(
    ("download", "kind"),
    [
        (_breaks_off, TemporaryError),
        (plain(404, "gone"), LinkExpired),
        (plain(502, "<html>"), TemporaryError),
        (plain(401, ""), TemporaryError),
    ],
    ids=["broken off", "404", "502", "401"],
)
async def test_a_download_that_fails_may_succeed_later(
    server: Server,
    its_client: TelegramChatStore,
    download: Answer,
    kind: type[TemporaryError],
    tmp_path: Path,
) -> None:
    """It is a matter of this link, or of this moment."""
    server.answer = file_of(download)

    error = await failed(its_client.fetch("BQAC", tmp_path / "back", size_bytes=3000), kind)

    assert error.code == "telegram_download_failed"


async def test_a_link_that_has_expired_is_asked_for_again(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, part: Path, tmp_path: Path
) -> None:
    """Between the answer of getFile and the download an hour may pass; the second link is taken."""
    sent = await send(store, part, chat_id=chat_id)
    before = bot_api.calls().get("getFile", {}).get(200, 0)
    bot_api.hang_after_storing("getFile", times=1)

    fetching = asyncio.create_task(store.fetch(sent.file_id, tmp_path / "back", size_bytes=3000))
    await eventually(partial(_holds, bot_api, "getFile"))
    bot_api.advance_clock(3600)
    bot_api.release()

    assert await fetching == hashlib.sha256(CONTENT).hexdigest()
    assert bot_api.calls()["getFile"][200] - before == 2


async def _holds(bot_api: BotApi, method: str) -> bool:
    return bot_api.held(method) > 0


@QUIET
async def test_a_flood_of_downloads_is_sat_out(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, part: Path, tmp_path: Path
) -> None:
    """Nothing is stored by asking again."""
    sent = await send(store, part, chat_id=chat_id)
    bot_api.flood("getFile", times=1, retry_after=1)
    before = time.monotonic()

    await store.fetch(sent.file_id, tmp_path / "back", size_bytes=3000)

    assert time.monotonic() - before >= 1


async def test_memory_stays_at_a_piece_both_ways(
    store: TelegramChatStore, chat_id: int, tmp_path: Path
) -> None:
    """A part of 19 MiB never lies in memory, neither whole nor by half."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(PART_BYTES))
    tracemalloc.start()
    try:
        sent = await send(store, path, chat_id=chat_id)
        await store.fetch(sent.file_id, tmp_path / "back", size_bytes=PART_BYTES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < MEMORY_BYTES
    assert (tmp_path / "back").stat().st_size == PART_BYTES


# What an answer means


@QUIET
async def test_a_flood_says_how_long_to_wait(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, part: Path
) -> None:
    """It is no failure; the caller waits and counts."""
    bot_api.flood("sendDocument", times=1, retry_after=7)

    wait = await failed(send(store, part, chat_id=chat_id), FloodWait)

    assert wait.seconds == 7
    assert bot_api.messages(chat_id) == []


async def test_a_group_that_became_a_supergroup_says_its_new_id(
    server: Server, its_client: TelegramChatStore, part: Path
) -> None:
    """Who does not follow it tells a person where it is."""
    server.answer = refusal(400, "Bad Request: group chat was upgraded", migrate_to_chat_id=-100777)

    moved = await failed(send(its_client, part), ChatMoved)

    assert moved.new_chat_id == -100777
    assert moved.code == "telegram_chat_migrated"
    assert "-100777" in moved.sentence


async def test_an_unknown_chat_is_final(store: TelegramChatStore, part: Path) -> None:
    """The sentence has Telegram's own words."""
    error = await failed(send(store, part, chat_id=-5), PermanentError)

    assert error.code == "telegram_bad_request"
    assert "chat not found" in error.sentence.lower()


async def test_a_revoked_token_is_final(bot_api: BotApi, part: Path) -> None:
    """At the start it ends the process; between two parts, the job."""
    async with open_telegram(UNKNOWN_TOKEN, bot_api.url) as store:
        fatal = await failed(store.introduce(), Fatal)
        error = await failed(send(store, part), PermanentError)

    assert str(fatal).startswith("TELEGRAM_BOT_TOKEN: ")
    assert error.code == "telegram_token"


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (refusal(403, "Forbidden: bot was kicked from the channel chat"), "telegram_forbidden", "kicked"),
        (refusal(400, "Bad Request: message caption is too long"), "telegram_bad_request", "caption"),
        (refusal(413, "Request Entity Too Large"), "telegram_too_large", "too large"),
        (plain(413, "<html>413 Request Entity Too Large</html>"), "telegram_too_large", "too large"),
        (plain(413, ""), "telegram_too_large", "too large"),
    ],
    ids=["403", "400", "413 JSON", "413 HTML", "413 empty"],
)
async def test_what_will_be_refused_again_is_final(
    server: Server, its_client: TelegramChatStore, answer: Answer, code: str, words: str, part: Path
) -> None:
    """In the shapes that the service and the proxy before it have."""
    server.answer = answer

    error = await failed(send(its_client, part), PermanentError)

    assert error.code == code
    assert words in error.sentence


@pytest.mark.parametrize(
    "answer",
    [
        refusal(500, "Internal Server Error: restart"),
        plain(502, "<html>Bad Gateway</html>"),
        plain(504, ""),
        plain(429, "<html>Too Many Requests</html>"),
        plain(200, "<html>maintenance</html>"),
    ],
    ids=["500 JSON", "502 HTML", "504 empty", "429 HTML", "200 HTML"],
)
async def test_what_is_no_answer_is_tried_again_and_suspected(
    server: Server, its_client: TelegramChatStore, answer: Answer, part: Path
) -> None:
    """Nobody knows whether the document was stored."""
    await its_client.probe()
    server.answer = answer

    error = await failed(send(its_client, part), AnswerLost)

    assert error.code == "telegram_unavailable"
    assert may_be_done(error)


async def test_what_is_refused_for_now_is_tried_again(
    server: Server, its_client: TelegramChatStore, part: Path
) -> None:
    """Nothing was stored, for sure."""
    await its_client.probe()
    server.answer = refusal(400, "Bad Request: wrong file_id or the file is temporarily unavailable")

    error = await failed(send(its_client, part), TemporaryError)

    assert error.code == "telegram_unavailable"
    assert not may_be_done(error)


@pytest.mark.parametrize(
    "answer",
    [
        receipt(document=document(2999)),
        receipt(animation={**document(3000), "width": 1, "height": 1, "duration": 1}),
        receipt(chat_id=CHAT - 1, document=document(3000)),
    ],
    ids=["size", "kind", "chat"],
)
async def test_a_receipt_for_something_else_is_not_believed(
    server: Server, its_client: TelegramChatStore, answer: Answer, part: Path
) -> None:
    """Another size, another kind, another chat."""
    server.answer = answer

    error = await failed(send(its_client, part), WrongReceipt)

    assert error.code == "telegram_wrong_receipt"
    assert may_be_done(error)


async def test_a_body_over_the_limit_is_refused_for_good(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, tmp_path: Path
) -> None:
    """The stand-in answers before it has read everything."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(52_428_800)

    error = await failed(send(store, path, chat_id=chat_id), PermanentError)

    assert error.code == "telegram_too_large"
    assert bot_api.messages(chat_id) == []


# No answer


async def test_a_lost_answer_is_tried_again_and_costs_an_attempt(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, part: Path
) -> None:
    """The message may be there all the same, so this cannot be repeated without end."""
    bot_api.hold_after("sendDocument", 0)
    sending = asyncio.create_task(send(store, part, chat_id=chat_id))
    await eventually(partial(is_held, bot_api))
    bot_api.kill()
    try:
        error = await failed(sending, AnswerLost)
    finally:
        bot_api.start()

    assert error.code == "telegram_unavailable"


async def test_three_failures_in_a_row_are_telegrams_own(
    server: Server, its_client: TelegramChatStore, part: Path
) -> None:
    """Whoever met them: from the third on no attempt is spent, until anything is answered."""
    await its_client.probe()
    codes = []
    for answer in (plain(502, ""), plain(500, ""), cut, plain(504, ""), refusal(403, "Forbidden"), cut):
        server.answer = answer
        with pytest.raises(FAILURES) as raised:
            await send(its_client, part)
        codes.append(type(raised.value))

    assert codes == [
        AnswerLost,
        AnswerLost,
        LostInOutage,
        LostInOutage,
        PermanentError,
        AnswerLost,
    ]


async def cut(request: web.Request) -> web.StreamResponse:
    """Hang up without an answer."""
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@QUIET
async def test_a_flood_of_probes_is_an_answer(store: TelegramChatStore, bot_api: BotApi) -> None:
    """Telegram is there, whatever it asks for."""
    bot_api.flood("getMe", times=1, retry_after=30)

    await store.probe()


async def test_a_server_that_is_not_there_costs_no_attempt(
    store: TelegramChatStore, bot_api: BotApi, chat_id: int, part: Path, tmp_path: Path
) -> None:
    """Nothing was sent. Who starts at this time waits, and knows itself when the server is back."""
    async with open_telegram(BOT_TOKEN, bot_api.url) as newcomer:
        bot_api.stop()
        try:
            error = await failed(send(store, part, chat_id=chat_id), Unavailable)
            await failed(store.fetch("BQAC", tmp_path / "back"), Unavailable)
            await failed(newcomer.introduce(), Unavailable)
        finally:
            bot_api.start()
        bot_api.flood("getMe", times=1, retry_after=1)
        await newcomer.introduce()

        assert newcomer.bot_id == store.bot_id
    assert error.name == "telegram"


async def test_the_client_does_not_show_its_token(store: TelegramChatStore) -> None:
    """Whoever prints the use case prints the client in it."""
    assert BOT_TOKEN.partition(":")[2] not in repr(store)
