"""What tests and chaos may turn: answers that fail, are held back, or get lost."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import aiohttp
import pytest
import telegram
from telegram.error import BadRequest, Forbidden, InvalidToken, NetworkError, RetryAfter, TimedOut

from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import RawClient, multipart, ptb_client, until

pytestmark = pytest.mark.usefixtures("resetting")


@pytest.fixture
def resetting(api: BotApi) -> Iterator[None]:
    yield
    api.reset()


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


@pytest.mark.parametrize(
    ("status", "description", "error"),
    [
        (400, "Bad Request: not enough rights to send documents to the chat", BadRequest),
        (401, "Unauthorized", InvalidToken),
        (403, "Forbidden: bot was kicked from the channel chat", Forbidden),
        (500, "Internal Server Error: restart", NetworkError),
    ],
)
async def test_the_next_calls_are_refused_as_planned(
    bot: telegram.Bot, raw: RawClient, chat_id: int, status: int, description: str, error: type[Exception]
) -> None:
    """In the service's shape, as often as planned, and nothing is stored; other methods go on."""
    raw.api.refuse("sendDocument", times=2, status=status)

    refused = await raw.send(chat_id, b"x")
    await bot.get_chat(chat_id)
    with pytest.raises(error) as raised:
        await bot.send_document(chat_id, b"x")
    stored = raw.api.messages(chat_id)
    accepted = await raw.send(chat_id, b"x")

    assert refused.refusal == (status, status, description)
    assert type(raised.value) is error
    assert stored == []
    assert accepted.status == 200


async def test_a_proxy_in_front_of_the_service_answers_with_a_page(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """A 502 is HTML of nginx, which the library calls a NetworkError; nothing is stored."""
    raw.api.refuse("sendDocument", times=2, status=502)

    status, kind, text = await raw.text("sendDocument", json={"chat_id": chat_id})
    with pytest.raises(NetworkError, match="Bad Gateway"):
        await bot.send_document(chat_id, b"x")

    assert (status, kind) == (502, "text/html")
    assert "<title>502 Bad Gateway</title>" in text
    assert raw.api.messages(chat_id) == []


async def test_an_answer_that_hangs_comes_after_its_message(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """The message is stored, the client waits until the release; the next call is answered at once."""
    raw.api.hang_after_storing("sendDocument", times=1)

    waiting = asyncio.create_task(bot.send_document(chat_id, b"first"))
    await until(lambda: raw.api.held("sendDocument") == 1)
    second = await raw.send(chat_id, b"second")
    stored_while_held = len(raw.api.messages(chat_id))
    raw.api.release()

    assert (await waiting).message_id == 1
    assert second.body["result"]["message_id"] == 2
    assert stored_while_held == 2


async def test_a_client_that_tires_of_waiting_leaves_its_message_behind(raw: RawClient, chat_id: int) -> None:
    """python-telegram-bot says TimedOut, and the document is in the chat all the same."""
    raw.api.hang_after_storing("sendDocument", times=1)

    async with ptb_client(raw.api) as bot:
        with pytest.raises(TimedOut):
            await bot.send_document(chat_id, b"x", read_timeout=0.2)

    assert [message.file_size for message in raw.api.messages(chat_id)] == [1]
    await until(lambda: raw.api.held("sendDocument") == 0)


async def test_a_dropped_connection_hides_a_message(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """The client is told nothing, and what it sent is stored, once for each call."""
    raw.api.drop_after_storing("sendDocument", times=2)

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await raw.send(chat_id, b"first")
    with pytest.raises(NetworkError, match="RemoteProtocolError"):
        await bot.send_document(chat_id, b"second")
    answered = await raw.send(chat_id, b"third")

    assert answered.body["result"]["message_id"] == 3
    assert [message.file_size for message in raw.api.messages(chat_id)] == [5, 6, 5]


async def test_a_reset_forgets_all_that_was_planned(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """Refusals, floods, losses and holds of every method; a call that waits is answered."""
    raw.api.hang_after_storing("sendDocument", times=1)
    waiting = asyncio.create_task(raw.send(chat_id, b"first"))
    await until(lambda: raw.api.held("sendDocument") == 1)
    raw.api.refuse("getChat", times=5, status=500)
    raw.api.flood("sendDocument", times=5, retry_after=60)
    raw.api.drop_after_storing("sendDocument", times=5)
    raw.api.hold_after("getMe", 0)

    raw.api.reset()

    assert (await waiting).status == 200
    assert (await raw.send(chat_id, b"second")).status == 200
    assert (await bot.get_chat(chat_id)).id == chat_id
    assert (await bot.get_me()).id == bot.id


@pytest.mark.parametrize(
    "knob", [{"method": "sendDocument", "status": 418}, {"method": "flyToTheMoon", "status": 500}]
)
def test_a_knob_for_what_does_not_exist_is_refused(api: BotApi, knob: dict[str, Any]) -> None:
    """A status without words and an unknown method would do nothing, silently."""
    with pytest.raises(HTTPError, match="400"):
        api.refuse(times=1, **knob)


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
