"""Duties: who leads a round, what becomes of a leader that dies or freezes, and of a duty that fails."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from shared.contracts.errors import Unavailable
from shared.runtime.reconciler import Duty, Reconciler, Round
from shared.storage.leadership import Leadership
from tests.waiting import beside, eventually

_LEADERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 4 AND granted"
_END_LEADERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1"
    " AND datname = current_database()"
)


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here; none leaves anything in it."""
    return home


@dataclass(slots=True)
class Rounds:
    """A duty whose rounds begin, and end when they are let."""

    begun: int = 0
    cancelled: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> Mapping[str, int]:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"done": 1}

    async def have_begun(self) -> bool:
        return self.begun > 0


async def at_once() -> Mapping[str, int]:
    return {"done": 1}


async def test_a_duty_has_one_leader_at_a_time(control_plane_url: str) -> None:
    """Whoever asks during a round is told so at once, and leads the next; another duty is free meanwhile."""
    first, second = Leadership(control_plane_url), Leadership(control_plane_url)
    rounds = Rounds()
    leading = asyncio.create_task(first("a", rounds))
    await eventually(rounds.have_begun)

    assert await second("a", at_once) is None
    assert await second("b", at_once) == {"done": 1}

    rounds.go_on.set()
    assert await leading == {"done": 1}
    assert await second("a", at_once) == {"done": 1}


async def test_a_leader_says_that_it_is_there(control_plane_url: str, connection: asyncpg.Connection) -> None:
    """A round may take many times longer than the server waits for a silent one."""
    rounds = Rounds()
    leading = asyncio.create_task(Leadership(control_plane_url, silence_seconds=2)("a", rounds))
    await eventually(rounds.have_begun)
    said = await connection.fetchval(_LAST_WORD)

    await eventually(lambda: _later(connection, said, seconds=3))
    assert await Leadership(control_plane_url)("a", at_once) is None

    rounds.go_on.set()
    assert await leading == {"done": 1}


async def test_a_frozen_leader_is_succeeded(control_plane_url: str) -> None:
    """Its session is ended by the server, also if its machine still answers for it; awake, it stops."""
    frozen, awake = threading.Event(), threading.Event()
    ends: list[BaseException] = []

    async def freeze() -> Mapping[str, int]:
        frozen.set()
        awake.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                await Rounds()()
        return {"done_late": 1}

    def sleeper() -> None:
        try:
            asyncio.run(_led(Leadership(control_plane_url, silence_seconds=1), freeze))
        except Unavailable as error:
            ends.append(error)

    thread = threading.Thread(target=sleeper)
    thread.start()
    await asyncio.to_thread(frozen.wait)
    try:
        await eventually(lambda: _leads(Leadership(control_plane_url)))
    finally:
        awake.set()
        await asyncio.to_thread(thread.join)

    assert len(ends) == 1


async def test_a_leader_that_is_cut_off_stops(control_plane_url: str, connection: asyncpg.Connection) -> None:
    """Without its session it leads no more: the round is cancelled, and the duty tried again later."""
    rounds = Rounds()
    leading = asyncio.create_task(Leadership(control_plane_url)("a", rounds))
    await eventually(rounds.have_begun)

    assert await connection.fetchval(_END_LEADERS, "pgferry-reconciler") == 1

    with pytest.raises(Unavailable):
        await leading
    assert rounds.cancelled == 1


async def test_the_rounds_own_error_keeps_its_name(control_plane_url: str) -> None:
    """A disk that is gone is not a database that is gone."""

    async def fails() -> Mapping[str, int]:
        raise FileNotFoundError("spool")

    with pytest.raises(FileNotFoundError):
        await Leadership(control_plane_url)("a", fails)


async def test_a_duty_that_fails_is_told_once_and_the_others_go_on(control_plane_url: str) -> None:
    """So it is when it hangs; when it works again that is told, too, and the time of it is shown."""
    name, hanging = uuid4().hex, Rounds()
    rounds: list[str] = []

    async def fails_twice() -> Mapping[str, int]:
        rounds.append("bad")
        if len([one for one in rounds if one == "bad"]) <= 2:
            raise OSError("no disk")
        return {"done": 2}

    async def other() -> Mapping[str, int]:
        rounds.append("good")
        return {"done": 1}

    duties = [
        Duty(name, ("done",), fails_twice),
        Duty(f"{name}-other", ("done",), other),
        Duty(f"{name}-hangs", ("done",), hanging),
    ]
    assert done(name) == 0

    async def enough() -> bool:
        return done(name) >= 4 and rounds.count("good") >= 4

    with capture_logs() as logs:
        async with running(duties, control_plane_url):
            await eventually(enough)

    told = [(line["event"], line["log_level"]) for line in logs if line.get("duty") == name]
    assert told == [("a duty failed and is tried again", "error"), ("the duty is done again", "info")]
    assert REGISTRY.get_sample_value("pgferry_reconciled_timestamp_seconds", {"duty": name})
    assert hanging.begun == hanging.cancelled == 1


async def test_duties_stop_at_once(control_plane_url: str, connection: asyncpg.Connection) -> None:
    """What a round is busy with is cancelled, and nobody leads any more."""
    rounds, stopping = Rounds(), asyncio.Event()
    reconciler = Reconciler([Duty(uuid4().hex, (), rounds)], Leadership(control_plane_url), 0.01)
    running = asyncio.create_task(reconciler.run(stopping))
    await eventually(rounds.have_begun)

    stopping.set()
    await asyncio.wait_for(running, timeout=30)

    assert rounds.cancelled == 1
    await eventually(lambda: _nobody_leads(connection))


async def test_an_outage_is_told_once_and_not_in_each_round() -> None:
    """The duty waits for the database, round after round."""
    asked: list[str] = []
    nowhere = Leadership("postgresql://nobody:secret@127.0.0.1:1/none")

    async def lead(duty: str, work: Round) -> Mapping[str, int] | None:
        asked.append(duty)
        return await nowhere(duty, work)

    async def thrice() -> bool:
        return len(asked) > 3

    with capture_logs() as logs:
        async with beside(Reconciler([Duty("a", (), at_once)], lead, 0.01).run(asyncio.Event())):
            await eventually(thrice)

    assert [line["event"] for line in logs] == ["a duty waits and is tried again"]
    assert "secret" not in str(logs)


_LAST_WORD = (
    "SELECT max(query_start) FROM pg_stat_activity"
    " WHERE application_name = 'pgferry-reconciler' AND datname = current_database()"
)


@asynccontextmanager
async def running(duties: list[Duty], url: str) -> AsyncIterator[None]:
    async with beside(Reconciler(duties, Leadership(url), 0.05).run(asyncio.Event())):
        yield


def done(duty: str) -> float:
    return REGISTRY.get_sample_value("pgferry_reconciled_total", {"duty": duty, "kind": "done"}) or 0


async def _led(lead: Leadership, work: Callable[[], Awaitable[Mapping[str, int]]]) -> None:
    await lead("a", work)


async def _leads(lead: Leadership) -> bool:
    return await lead("a", at_once) is not None


async def _later(connection: asyncpg.Connection, moment: object, *, seconds: float) -> bool:
    later: bool = await connection.fetchval(
        f"SELECT ({_LAST_WORD}) > $1::timestamptz + make_interval(secs => $2)", moment, seconds
    )
    return later


async def _nobody_leads(connection: asyncpg.Connection) -> bool:
    leaders: int = await connection.fetchval(_LEADERS)
    return leaders == 0
