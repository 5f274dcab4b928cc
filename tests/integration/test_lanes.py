"""Turns in the lane of a chat: on one ledger, whoever and wherever the posting processes are."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from services.uploader.lane import Lane
from shared.contracts.manifest import part_sizes
from shared.storage.database import Database, open_database
from shared.storage.lanes import LaneRule
from shared.telegram.client import open_telegram
from shared.telegram.errors import FloodWait
from tests.conftest import BOT_TOKEN
from tests.integration.jobs_in import lapse
from tests.integration.upload_plant import Plant
from tests.waiting import eventually

BOT, CHAT = 7, -1007
#: Telegram's 20 in 60 s, and 30 in 1 s, at 1:100.
HUNDREDTH = LaneRule(20, 0.6, 30, 0.01)
ONE = LaneRule(1, 0.05)

_ENTRIES = "SELECT state FROM control_plane.lane_entries ORDER BY id"
_NEWEST_RENEWAL = "SELECT max(lease_until) FROM control_plane.lane_entries WHERE state = $1"


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here."""
    return home


@pytest.fixture(autouse=True)
async def empty_ledger(connection: asyncpg.Connection) -> None:
    """No lane has been used."""
    await connection.execute("TRUNCATE control_plane.lane_entries")


@pytest.fixture
async def other(control_plane_url: str) -> AsyncIterator[Database]:
    """The database as another process has it."""
    async with open_database(control_plane_url, name="other") as database:
        yield database


@pytest.fixture
def strict_api(tmp_path: Path) -> Iterator[BotApi]:
    """A stand-in that refuses the 21st message in 0.6 s."""
    with BotApi(tmp_path / "strict", tokens=[BOT_TOKEN], chats=[CHAT], rules=Rules.at(100)) as api:
        yield api


async def states(connection: asyncpg.Connection) -> list[str]:
    return [record["state"] for record in await connection.fetch(_ENTRIES)]


async def test_many_posts_of_two_processes_are_never_too_many(
    control_plane: Database, other: Database, strict_api: BotApi, tmp_path: Path
) -> None:
    """A chat takes 20 in a window, at once if they come at once; nobody is ever asked to wait."""
    path = tmp_path / "document"
    path.write_bytes(b"a part")
    lanes = [Lane(control_plane, HUNDREDTH, "first"), Lane(other, HUNDREDTH, "second")]
    async with open_telegram(BOT_TOKEN, strict_api.url) as telegram:
        await telegram.introduce()

        async def post(lane: Lane, job_id: UUID, number: int) -> None:
            for _ in range(number):
                async with lane.turn(BOT, CHAT, job_id):
                    await telegram.send(path, chat_id=CHAT, filename="part", caption=None)

        await asyncio.gather(*(post(lane, uuid4(), 10) for lane in lanes for _ in range(4)))

    assert strict_api.calls()["sendDocument"] == {200: 80}


async def test_posts_in_many_chats_are_not_too_many_for_the_bot(
    control_plane: Database, other: Database, tmp_path: Path
) -> None:
    """Ten chats would take 200 at once, and the bot may send 30 in its window: nobody is asked to wait."""
    path = tmp_path / "document"
    path.write_bytes(b"a part")
    chats = [CHAT - number for number in range(10)]
    of_bot = LaneRule(20, 60, bot_messages=30, bot_window_seconds=0.5)
    lanes = [Lane(control_plane, of_bot, "first"), Lane(other, of_bot, "second")]
    rules = replace(Rules.none(), bot_messages=30, bot_window_seconds=0.5)
    with BotApi(tmp_path / "bot", tokens=[BOT_TOKEN], chats=chats, rules=rules) as api:
        async with open_telegram(BOT_TOKEN, api.url) as telegram:
            await telegram.introduce()

            async def post(lane: Lane, chat_id: int) -> None:
                for _ in range(8):
                    async with lane.turn(BOT, chat_id, None):
                        await telegram.send(path, chat_id=chat_id, filename="part", caption=None)

            began = time.monotonic()
            await asyncio.gather(*(post(lanes[number % 2], chat) for number, chat in enumerate(chats)))
            seconds = time.monotonic() - began

        assert api.calls()["sendDocument"] == {200: 80}
    assert seconds >= 1


async def test_parts_differ_in_size_so_that_none_waits_for_another(tmp_path: Path) -> None:
    """Telegram's server slows files of equal size down and refuses them when many come at once."""
    sizes = part_sizes(6_000_000, 120_000)
    rules = replace(Rules(), messages=0, bot_messages=0)
    with BotApi(tmp_path / "sizes", tokens=[BOT_TOKEN], chats=[CHAT], rules=rules) as api:
        async with open_telegram(BOT_TOKEN, api.url) as telegram:
            await telegram.introduce()

            async def post(number: int, size: int) -> None:
                path = tmp_path / str(number)
                path.write_bytes(bytes(size))
                await telegram.send(path, chat_id=CHAT, filename="part", caption=None)

            began = time.monotonic()
            await asyncio.gather(*(post(number, size) for number, size in enumerate(sizes)))
            seconds = time.monotonic() - began

        assert api.calls()["sendDocument"] == {200: len(sizes)}
    assert seconds < 8  # equal ones are let in one after another, in ten


async def test_without_a_turn_the_chat_refuses(control_plane: Database, tmp_path: Path) -> None:
    """The stand-in can tell: in Telegram's own window the 21st is one too many."""
    path = tmp_path / "document"
    path.write_bytes(b"a part")
    lane = Lane(control_plane, LaneRule(messages=0))
    with BotApi(tmp_path / "minute", tokens=[BOT_TOKEN], chats=[CHAT]) as api:
        async with open_telegram(BOT_TOKEN, api.url) as telegram:
            await telegram.introduce()

            async def post() -> None:
                async with lane.turn(BOT, CHAT, uuid4()):
                    await telegram.send(path, chat_id=CHAT, filename="part", caption=None)

            for _ in range(20):
                await post()
            with pytest.raises(FloodWait):
                await post()


async def test_a_small_job_comes_before_the_next_part_of_a_large_one(
    control_plane: Database, other: Database, connection: asyncpg.Connection
) -> None:
    """Whoever has had a turn stands in line again behind those who wait."""
    turns: list[str] = []
    large, small = Lane(control_plane, ONE, "first"), Lane(other, ONE, "second")
    large_job = uuid4()

    async def waits() -> bool:
        return "waiting" in await states(connection)

    async def one(lane: Lane, name: str, job_id: UUID) -> None:
        async with lane.turn(BOT, CHAT, job_id):
            turns.append(name)

    async with asyncio.TaskGroup() as group:
        async with large.turn(BOT, CHAT, large_job):
            group.create_task(one(small, "small", uuid4()))
            await eventually(waits)
        group.create_task(one(large, "large", large_job))

    assert turns == ["small", "large"]


async def test_who_is_asked_to_wait_closes_the_lane_for_all(control_plane: Database, other: Database) -> None:
    """Another chat's lane stays open."""
    began = time.monotonic()
    await Lane(control_plane, HUNDREDTH, "first").flooded(BOT, CHAT, 2)
    lane = Lane(other, HUNDREDTH, "second")
    async with lane.turn(BOT, CHAT - 1, uuid4()):
        elsewhere = time.monotonic() - began

    async with lane.turn(BOT, CHAT, uuid4()):
        here = time.monotonic() - began

    assert elsewhere < 2 <= here + 0.05


async def test_a_post_that_was_told_to_wait_closes_the_lane_before_its_turn_ends(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Whoever waits in line sees a closed lane, not a free place."""
    with pytest.raises(FloodWait):
        async with Lane(control_plane, HUNDREDTH, "first").turn(BOT, CHAT, uuid4()):
            raise FloodWait(60)

    assert await states(connection) == ["ended", "closed"]


async def test_the_turn_of_a_dead_worker_ends_with_its_lease(
    plant: Plant, other: Database, connection: asyncpg.Connection
) -> None:
    """Nobody takes its place before; after a window the lane is as it was."""
    claim = await plant.claimed()
    dead = Lane(plant.database, ONE, "dead")
    turn = dead.turn(BOT, CHAT, claim.job_id)
    await turn.__aenter__()
    waiting = asyncio.create_task(_one_turn(Lane(other, ONE, "second")))

    async def waits() -> bool:
        return "waiting" in await states(connection)

    await eventually(waits)
    assert await states(connection) == ["open", "waiting"]

    await lapse(connection, claim.job_id)

    await asyncio.wait_for(waiting, 10)


async def test_the_successor_of_a_dead_worker_ends_its_turn(
    plant: Plant, connection: asyncpg.Connection
) -> None:
    """A job makes one post at a time."""
    claim = await plant.claimed()
    turn = Lane(plant.database, ONE, "dead").turn(BOT, CHAT, claim.job_id)
    await turn.__aenter__()  # one that nobody holds ends itself
    successor = await plant.claim_after(claim)

    async with asyncio.timeout(10), Lane(plant.database, ONE, "next").turn(BOT, CHAT, successor.job_id):
        assert sorted(await states(connection)) == ["open"]


async def test_a_long_call_keeps_its_place(control_plane: Database, connection: asyncpg.Connection) -> None:
    """It renews its entry, many times longer than the lease of one that died."""
    renewals: set[object] = set()
    async with Lane(control_plane, ONE, "slow", lease_seconds=0.3).turn(BOT, CHAT, None):
        waiting = asyncio.create_task(_one_turn(Lane(control_plane, ONE, "second")))

        async def was_renewed() -> bool:
            renewals.add(await connection.fetchval(_NEWEST_RENEWAL, "open"))
            return len(renewals) >= 10

        await eventually(was_renewed)

        assert await states(connection) == ["open", "waiting"]
    await asyncio.wait_for(waiting, 10)


async def test_the_turn_of_a_dead_process_without_a_job_ends_with_its_entry(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Nobody renews it: whoever waits has the place soon after."""
    async with control_plane.transaction() as transaction:
        await transaction.lanes.reserve(BOT, CHAT, job_id=uuid4(), owner="dead", rule=ONE, lease_seconds=0.3)
    assert await states(connection) == ["open"]

    await asyncio.wait_for(_one_turn(Lane(control_plane, ONE, "second")), 10)


async def test_a_call_that_was_taken_for_dead_counts_from_its_end(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Its process was frozen, or cut off from the database: its message may just have arrived."""
    ended = "SELECT ended_at FROM control_plane.lane_entries"
    async with Lane(control_plane, HUNDREDTH).turn(BOT, CHAT, None):
        await connection.execute(
            "UPDATE control_plane.lane_entries SET state = 'ended', ended_at = clock_timestamp()"
        )
        before = await connection.fetchval(ended)

    assert await connection.fetchval(ended) > before


async def test_what_a_dead_process_left_open_in_one_chat_ends_for_the_others(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """The bot's own rule counts all chats, and perhaps nobody posts to that one any more."""
    rule = LaneRule(20, 60, bot_messages=1, bot_window_seconds=0.01)
    async with control_plane.transaction() as transaction:
        lanes = transaction.lanes
        await lanes.reserve(BOT, CHAT - 1, job_id=uuid4(), owner="dead", rule=rule, lease_seconds=0.3)
    assert await states(connection) == ["open"]

    await asyncio.wait_for(_one_turn(Lane(control_plane, rule, "first")), 10)


async def test_who_gives_up_waiting_holds_up_nobody(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """A reservation that nobody renews is dropped."""
    lane = Lane(control_plane, ONE, "first")
    async with lane.turn(BOT, CHAT, uuid4()):
        given_up = asyncio.create_task(_one_turn(Lane(control_plane, ONE, "second")))

        async def waits() -> bool:
            return "waiting" in await states(connection)

        await eventually(waits)
        given_up.cancel()
    await connection.execute(
        "UPDATE control_plane.lane_entries SET lease_until = now() WHERE state = 'waiting'"
    )

    async with asyncio.timeout(10):
        await _one_turn(lane)


async def test_a_post_for_no_job_stands_in_line_once(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """However often it looks whether it is its turn: what stood there twice would hold up all others."""
    renewals: set[object] = set()
    async with Lane(control_plane, ONE, "first").turn(BOT, CHAT, uuid4()):
        waiting = asyncio.create_task(_turn_of_no_job(Lane(control_plane, ONE, "catalogue")))

        async def has_looked_thrice() -> bool:
            renewals.add(await connection.fetchval(_NEWEST_RENEWAL, "waiting"))
            return len(renewals - {None}) >= 3

        await eventually(has_looked_thrice)

        assert sorted(await states(connection)) == ["open", "waiting"]
    await asyncio.wait_for(waiting, 10)


async def test_without_a_rule_nothing_is_written(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """For a Bot API server of one's own."""
    await _one_turn(Lane(control_plane, LaneRule(messages=0)))

    assert await states(connection) == []


async def _one_turn(lane: Lane) -> None:
    async with lane.turn(BOT, CHAT, uuid4()):
        pass


async def _turn_of_no_job(lane: Lane) -> None:
    async with lane.turn(BOT, CHAT, None):
        pass
