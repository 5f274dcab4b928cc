"""What tests and chaos may turn: answers that fail, are held back, or get lost."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import telegram
from telegram.error import RetryAfter

from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import (
    RawClient,
    multipart,
    ptb_client,
    until,
)


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
