"""Limits of the service: sizes, captions, messages a minute."""

from datetime import timedelta
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
import telegram
from telegram.error import BadRequest, NetworkError, RetryAfter

from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import (
    CHATS,
    OTHER_TOKEN,
    RawClient,
    multipart,
    ptb_client,
    send_file,
    zeros,
)

MAX_DOWNLOAD_BYTES = 20_971_520
MAX_BODY_BYTES = 52_428_800


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
