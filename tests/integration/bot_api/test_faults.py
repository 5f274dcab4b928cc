"""Faults of the service: each as the library takes it, and as it looks on the wire."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import telegram
from telegram.error import BadRequest, ChatMigrated, Forbidden, InvalidToken, NetworkError, TimedOut

from sandbox.bot_api.errors import Shape
from sandbox.bot_api.knobs import ANY, DOWNLOAD, REFUSALS, Loss
from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import (
    CHATS,
    TOKEN,
    RawClient,
    multipart,
    ptb_client,
    send_file,
    until,
    zeros,
)

MAX_BODY_BYTES = 52_428_800
HOUR = 3600
pytestmark = pytest.mark.usefixtures("resetting")


@pytest.fixture
def resetting(api: BotApi) -> Iterator[None]:
    yield
    api.reset()


@pytest.mark.parametrize("status", [500, 502, 504])
@pytest.mark.parametrize("shape", [Shape.JSON, Shape.PAGE])
@pytest.mark.parametrize("stored", [True, False])
async def test_its_own_trouble_may_come_before_or_after_the_message(
    bot: telegram.Bot, raw: RawClient, chat_id: int, status: int, shape: Shape, *, stored: bool
) -> None:
    """5xx in JSON or as a page of nginx: the answer doesn't tell whether the message is there."""
    raw.api.refuse("sendDocument", times=2, status=status, shape=shape, stored=stored)

    with pytest.raises(NetworkError) as raised:
        await bot.send_document(chat_id, b"x")
    code, kind, text = await raw.text("sendDocument", json={"chat_id": chat_id, "document": "none"})
    if stored:  # a call that is refused on its own account never comes so far
        assert code == 400
        raw.api.reset()
        raw.api.refuse("sendDocument", times=1, status=status, shape=shape, stored=True)
        code, kind, text = await _send_text(raw, chat_id)

    assert type(raised.value) is NetworkError
    assert (code, kind) == (status, "text/html" if shape is Shape.PAGE else "application/json")
    assert REFUSALS[status][0] in text
    assert len(raw.api.messages(chat_id)) == (2 if stored else 0)


async def _send_text(raw: RawClient, chat_id: int) -> tuple[int, str, str]:
    headers, body = multipart(chat_id, 1000)
    return await raw.text("sendDocument", headers=headers, data=body)


@pytest.mark.parametrize(
    ("status", "error"), [(400, BadRequest), (403, Forbidden), (401, InvalidToken), (421, NetworkError)]
)
async def test_each_refusal_has_the_words_of_the_service(
    bot: telegram.Bot, raw: RawClient, chat_id: int, status: int, error: type[Exception]
) -> None:
    """All that are known of the status; other words are no refusal of the service."""
    for words in REFUSALS[status]:
        raw.api.refuse("sendDocument", times=2, status=status, description=words)

        with pytest.raises(error) as raised:
            await bot.send_document(chat_id, b"x")

        assert type(raised.value) is error
        assert (await raw.send(chat_id, b"x")).refusal == (status, status, words)
    assert raw.api.messages(chat_id) == []


@pytest.mark.parametrize(("status", "error"), [(401, InvalidToken), (403, Forbidden)])
async def test_a_bot_may_lose_its_rights_in_the_middle(
    bot: telegram.Bot, raw: RawClient, chat_id: int, status: int, error: type[Exception]
) -> None:
    """From then on every method is refused, and downloads are too."""
    sent = await bot.send_document(chat_id, b"x")
    assert sent.document is not None
    path = (await raw.call("getFile", json={"file_id": sent.document.file_id})).body["result"]["file_path"]
    raw.api.refuse(ANY, times=6, status=status)

    with pytest.raises(error):
        await bot.send_document(chat_id, b"x")
    with pytest.raises(error):
        await bot.get_file(sent.document)
    with pytest.raises(error):
        await bot.get_chat(chat_id)
    assert (await raw.call("getMe")).status == status
    assert (await raw.send(chat_id, b"x")).status == status
    assert (await raw.download(path))[0] == status
    assert (await raw.download(path))[0] == 200


async def test_a_group_becomes_a_supergroup(api: BotApi, raw: RawClient, chat_id: int) -> None:
    """Its old id is refused with the new one, which takes messages; file_ids go on working."""
    new_chat_id = chat_id - 10_000
    async with ptb_client(api) as bot:
        sent = await bot.send_document(chat_id, b"content")
        assert sent.document is not None
        api.migrate(chat_id, new_chat_id)

        with pytest.raises(ChatMigrated) as migrated:
            await bot.send_document(chat_id, b"x")
        moved = await bot.send_document(new_chat_id, b"x")
        content = await (await bot.get_file(sent.document)).download_as_bytearray()
    refused = await raw.send(chat_id, b"x")

    assert migrated.value.new_chat_id == new_chat_id
    assert refused.refusal == (
        400,
        400,
        "Bad Request: group chat was upgraded to a supergroup chat",
    )
    assert refused.body["parameters"] == {"migrate_to_chat_id": new_chat_id}
    assert (moved.chat_id, moved.message_id, bytes(content)) == (new_chat_id, 1, b"content")


async def test_a_file_is_temporarily_unavailable_some_times(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """A 400 that passes by itself."""
    sent = (await bot.send_document(chat_id, b"x")).document
    assert sent is not None
    words = "Bad Request: wrong file_id or the file is temporarily unavailable"
    raw.api.refuse("getFile", times=2, status=400, description=words)

    with pytest.raises(BadRequest, match="temporarily unavailable"):
        await bot.get_file(sent)
    refused = await raw.call("getFile", json={"file_id": sent.file_id})

    assert refused.refusal == (400, 400, words)
    assert (await bot.get_file(sent)).file_size == 1


async def test_a_document_may_be_taken_for_music(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """The message is stored, and its answer shows no document."""
    raw.api.answer_without_document(times=2)

    message = await bot.send_document(chat_id, b"x")
    result = (await raw.send(chat_id, b"x")).body["result"]

    assert message.document is None
    assert message.audio is not None
    assert "document" not in result
    assert result["audio"]["file_size"] == 1
    assert len(raw.api.messages(chat_id)) == 2


@pytest.mark.parametrize("loss", [Loss.CUT, Loss.ALTERED])
async def test_a_download_may_come_short_or_altered(
    bot: telegram.Bot, raw: RawClient, chat_id: int, loss: Loss
) -> None:
    """Half of it with the announced length of all, or the right length with a wrong byte."""
    content = os.urandom(200_000)
    sent = (await bot.send_document(chat_id, content)).document
    assert sent is not None
    file = await bot.get_file(sent)
    path = str(file.file_path).rpartition(f"{TOKEN}/")[2]
    raw.api.spoil_downloads(times=2, loss=loss)

    if loss is Loss.CUT:
        with pytest.raises(NetworkError):
            await file.download_as_bytearray()
        assert await _broken_download(raw, path) == "ClientPayloadError"
    else:
        altered = bytes(await file.download_as_bytearray())
        assert len(altered) == len(content)
        assert hashlib.sha256(altered).digest() != hashlib.sha256(content).digest()
        assert await raw.download(path) == (200, altered)
    assert await raw.download(path) == (200, content)


async def _broken_download(raw: RawClient, path: str) -> str:
    try:
        await raw.download(path)
    except OSError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - its kind is what is asked
        return type(error).__name__
    return ""


async def test_a_link_lives_for_an_hour(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """By the server's clock; then it is not found until the file is asked for again."""
    sent = (await bot.send_document(chat_id, b"content")).document
    assert sent is not None
    file = await bot.get_file(sent)
    path = str(file.file_path).rpartition(f"{TOKEN}/")[2]
    raw.api.advance_clock(HOUR - 10)
    young = await raw.download(path)
    raw.api.advance_clock(10)

    with pytest.raises(InvalidToken, match="Not Found"):
        await file.download_as_bytearray()
    old = await raw.download(path)
    renewed = await (await bot.get_file(sent)).download_as_bytearray()

    assert young == (200, b"content")
    assert old == (404, b'{"ok": false, "error_code": 404, "description": "Not Found"}')
    assert renewed == b"content"


async def test_a_link_must_have_been_asked_for(raw: RawClient, chat_id: int) -> None:
    """A path that is guessed leads nowhere."""
    first, second = [
        (await raw.send(chat_id, b"x", name="a.bin")).body["result"]["document"] for _ in range(2)
    ]
    path = (await raw.call("getFile", json={"file_id": first["file_id"]})).body["result"]["file_path"]
    number = int(path.removeprefix("documents/file_").removesuffix(".bin"))

    guessed = f"documents/file_{number + 1}.bin"

    assert (await raw.download(guessed))[0] == 404
    await raw.call("getFile", json={"file_id": second["file_id"]})
    assert (await raw.download(guessed))[0] == 200


async def test_the_path_of_a_file_may_be_long_in_coming(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """The server fetches the file before it answers."""
    sent = (await bot.send_document(chat_id, b"x")).document
    assert sent is not None
    raw.api.hold_after("getFile", 0)

    async with ptb_client(raw.api) as hasty:
        with pytest.raises(TimedOut):
            await hasty.get_file(sent.file_id, read_timeout=0.2)
    waiting = asyncio.ensure_future(raw.call("getFile", json={"file_id": sent.file_id}))
    await until(lambda: raw.api.held("getFile") == 1)
    raw.api.release()

    assert (await waiting).status == 200


@pytest.mark.parametrize("shape", Shape)
async def test_what_is_too_large_is_refused_in_three_shapes(
    raw: RawClient, chat_id: int, tmp_path: Path, shape: Shape
) -> None:
    """In JSON, as a page, or with nothing at all; the library says NetworkError to each."""
    raw.api.refuse_oversized(shape)
    headers, body = multipart(chat_id, MAX_BODY_BYTES + 1)

    async with ptb_client(raw.api) as bot:
        with pytest.raises(NetworkError):
            await send_file(bot, chat_id, zeros(tmp_path / "a.bin", MAX_BODY_BYTES))
    headers["Content-Length"] = str(MAX_BODY_BYTES + 1)
    status, kind, text = await raw.text("sendDocument", headers=headers, data=body)

    assert status == 413
    expected = {
        Shape.JSON: ("application/json", "Request Entity Too Large"),
        Shape.PAGE: ("text/html", "<title>413 Request Entity Too Large</title>"),
        Shape.EMPTY: ("application/octet-stream", ""),
    }
    assert kind == expected[shape][0]
    assert expected[shape][1] in text
    assert (text == "") == (shape is Shape.EMPTY)
    assert raw.api.messages(chat_id) == []


async def test_what_is_too_large_is_refused_before_it_was_sent(raw: RawClient, chat_id: int) -> None:
    """The announcement is enough; the connection ends while the body is still to come."""
    waited = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"--cut\r\n"
        await waited.wait()

    headers = {"Content-Type": "multipart/form-data; boundary=cut", "Content-Length": str(MAX_BODY_BYTES + 1)}
    async with asyncio.timeout(5):
        answer = await raw.call("sendDocument", headers=headers, data=body())
    waited.set()

    assert answer.refusal == (413, 413, "Request Entity Too Large")
    assert answer.headers["Connection"] == "close"


async def test_a_body_that_is_read_slowly_tires_its_sender(raw: RawClient, chat_id: int) -> None:
    """The library's time for a write runs out with most of the file unsent; nothing is stored."""
    raw.api.drip("sendDocument", times=2, pause_seconds=60)

    async with ptb_client(raw.api) as bot:
        with pytest.raises(TimedOut) as raised:
            await bot.send_document(chat_id, bytes(30_000_000), write_timeout=0.3)
    plainly = asyncio.ensure_future(raw.send(chat_id, b"x"))
    await until(lambda: raw.api.held("sendDocument") == 2)
    raw.api.release()

    assert type(raised.value.__cause__).__name__ == "WriteTimeout"
    assert (await plainly).status == 200
    assert [message.file_size for message in raw.api.messages(chat_id)] == [1]


async def test_a_bot_that_logged_out_is_refused_for_ten_minutes(own_api: BotApi, raw: RawClient) -> None:
    """Then the cloud takes it again."""
    own = RawClient(own_api, raw.session)
    async with ptb_client(own_api) as bot:
        assert await bot.log_out()
        with pytest.raises(BadRequest, match="Logged out"):
            await bot.get_chat(CHATS[0])
    refused = await own.call("getMe")
    own_api.advance_clock(600)

    assert refused.refusal == (400, 400, "Logged out")
    assert (await own.call("getMe")).status == 200


async def test_text_is_posted_too(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """It counts as a message, and has no document."""
    message = await bot.send_message(chat_id, "hello")
    result = (await raw.call("sendMessage", json={"chat_id": chat_id, "text": "again"})).body["result"]
    empty = await raw.call("sendMessage", json={"chat_id": chat_id, "text": ""})

    assert (message.text, message.message_id) == ("hello", 1)
    assert (result["text"], result["message_id"]) == ("again", 2)
    assert empty.refusal == (400, 400, "Bad Request: message text is empty")
    assert [stored.text for stored in raw.api.messages(chat_id)] == ["hello", "again"]


async def test_a_download_may_be_refused_like_a_call(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """As a page of the proxy; the next one is whole."""
    sent = (await bot.send_document(chat_id, b"content")).document
    assert sent is not None
    file = await bot.get_file(sent)
    path = str(file.file_path).rpartition(f"{TOKEN}/")[2]
    raw.api.refuse(DOWNLOAD, times=2, status=502)

    with pytest.raises(NetworkError, match="Bad Gateway"):
        await file.download_as_bytearray()

    assert (await raw.download(path))[0] == 502
    assert await raw.download(path) == (200, b"content")
