"""The rules of the Bot API server and of Telegram behind it, with all times of sending at 1:20."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import telegram
from telegram.error import RetryAfter

from sandbox.bot_api.limits import Rules, next_of_same_size
from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import CHATS, OTHER_TOKEN, TOKEN, RawClient, ptb_client, until

FAST = Rules.at(20)
SERVERS_OWN = replace(FAST, messages=0, bot_messages=0)
COUNTED = 100_001
NOT_COUNTED = 100_000

Send = Callable[[int, bytes], Awaitable[int]]


@pytest.fixture(autouse=True)
def library_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTB_TIMEDELTA", "1")


@pytest.fixture(params=["library", "plain"])
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def sending(api: BotApi, client: str) -> AsyncIterator[Send]:
    """A function that sends a document and returns the status of the answer."""
    async with ptb_client(api) as bot, aiohttp.ClientSession() as session:
        raw = RawClient(api, session)

        async def by_library(chat_id: int, content: bytes) -> int:
            try:
                await bot.send_document(chat_id, telegram.InputFile(content, filename="a.bin"))
            except RetryAfter:
                return 429
            return 200

        async def plainly(chat_id: int, content: bytes) -> int:
            return (await raw.send(chat_id, content)).status

        yield by_library if client == "library" else plainly


@asynccontextmanager
async def running(tmp_path: Path, rules: Rules) -> AsyncIterator[BotApi]:
    with BotApi(tmp_path / "api", tokens=[TOKEN, OTHER_TOKEN], chats=CHATS, rules=rules) as api:
        yield api


async def test_too_many_equal_files_at_once_are_refused(tmp_path: Path) -> None:
    """32 of the smallest counted ones may wait, whatever the chats; nothing is stored of what is refused."""
    rules = replace(Rules.none(), same_size=1)
    async with (
        running(tmp_path, rules) as api,
        sending(api, "library") as by_library,
        sending(api, "plain") as plainly,
    ):
        calls = [send(CHATS[n % 5], bytes(COUNTED)) for n in range(40) for send in (by_library, plainly)]
        statuses = await asyncio.gather(*calls)
        stored = sum(len(api.messages(CHATS[n])) for n in range(5))

    accepted = statuses.count(200)
    assert 32 <= accepted < 80  # more, the longer the eighty take to arrive
    assert 429 in statuses[::2]
    assert 429 in statuses[1::2]
    assert Counter(statuses) == {200: accepted, 429: 80 - accepted}
    assert stored == accepted


async def test_equal_files_are_counted_by_size_and_bot(tmp_path: Path, client: str) -> None:
    """Another size has a queue of its own, and small files have none."""
    async with running(tmp_path, SERVERS_OWN) as api, sending(api, client) as send:
        sizes = [COUNTED + n for n in range(10)] + [NOT_COUNTED] * 20
        statuses = await asyncio.gather(*(send(CHATS[0], bytes(size)) for size in sizes))

    assert Counter(statuses) == {200: 30}


def test_the_delays_are_those_of_the_server() -> None:
    """19 MiB parts: two at once, then one each 0.9 s, none once the last one goes in more than 5 s."""
    part = 19 * 1024 * 1024
    turns: list[float] = []
    last = 0.0
    while (turn := next_of_same_size(last, part, 100.0, 1)) is not None:
        turns.append(round(turn - 100, 6))
        last = turn

    assert [max(turn, 0) for turn in turns] == [0, 0, 0.8, 1.7, 2.6, 3.5, 4.4, 5.3]


@pytest.mark.parametrize(("size", "gap"), [(200_000, 0.2), (5_000_000, 0.5), (50_000_000, 0.9)])
def test_the_gap_between_equal_files_grows_with_their_size(size: int, gap: float) -> None:
    """From 0.2 to 0.9 s; at a tenth of the time, a tenth of it."""
    assert next_of_same_size(100.0, size, 100.0, 1) == pytest.approx(100 + gap)
    assert next_of_same_size(100.0, size, 100.0, 0.1) == pytest.approx(100 + gap / 10)


async def test_the_servers_own_refusal_comes_late_and_for_a_minute(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """3 s after the body was read, with 60 s to wait; here a twentieth of both."""
    async with running(tmp_path, replace(SERVERS_OWN, pending=1)) as api:
        raw = RawClient(api, session)
        api.hold_after("sendDocument", 0)
        first = asyncio.create_task(raw.send(CHATS[0], b"x"))
        await until(lambda: api.held("sendDocument") == 1)
        before = time.monotonic()
        refused = await raw.send(CHATS[0], b"x")
        seconds = time.monotonic() - before
        api.release()
        await first

    assert refused.body["parameters"] == {"retry_after": 3}
    assert refused.headers["Retry-After"] == "3"
    assert seconds >= 0.15


async def test_a_chat_takes_only_so_many_unsent_messages(tmp_path: Path, client: str) -> None:
    """Other chats take more, and so does this one when they are sent."""
    async with running(tmp_path, replace(SERVERS_OWN, pending=3)) as api, sending(api, client) as send:
        api.hold_after("sendDocument", 0)
        unsent = [asyncio.ensure_future(send(CHATS[0], b"x")) for _ in range(3)]
        await until(lambda: api.held("sendDocument") == 3)
        refused = await send(CHATS[0], b"x")
        elsewhere = asyncio.ensure_future(send(CHATS[1], b"x"))
        await until(lambda: api.held("sendDocument") == 4)
        api.release()
        sent = await asyncio.gather(*unsent, elsewhere)
        after = await send(CHATS[0], b"x")

    assert (refused, sent, after) == (429, [200] * 4, 200)


def test_the_real_figures_are_the_defaults() -> None:
    """As Telegram's FAQ and the server's source have them."""
    assert Rules() == Rules(
        messages=20,
        window_seconds=60,
        bot_messages=30,
        bot_window_seconds=1,
        same_size=1,
        pending=310,
        flood_answer_seconds=3,
        flood_wait_seconds=60,
        link_seconds=3600,
    )


async def test_a_bot_sends_thirty_messages_a_second(tmp_path: Path, client: str) -> None:
    """Over all chats, of text too; another bot has thirty of its own. Here the second lasts a minute."""
    rules = replace(Rules.none(), bot_messages=30, bot_window_seconds=60)
    async with (
        running(tmp_path, rules) as api,
        sending(api, client) as send,
        ptb_client(api, OTHER_TOKEN) as other,
        ptb_client(api) as bot,
    ):
        await bot.send_message(CHATS[40], "counts too")
        statuses = [await send(CHATS[n], b"x") for n in range(30)]
        await other.send_document(CHATS[0], b"x")
        api.advance_clock(60)
        after = await send(CHATS[0], b"x")

    assert Counter(statuses) == {200: 29, 429: 1}
    assert statuses[-1] == 429
    assert after == 200
