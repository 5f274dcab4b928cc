"""Jobs whose worker is gone and that nobody claims: put back, given up or cancelled by any service."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from shared.contracts.errors import LeaseLost
from shared.contracts.job import HALVES, StageGroup, Status
from shared.storage.cancel import cancel
from shared.storage.database import Database, open_database
from shared.storage.left_over import LeftOver
from shared.storage.nudges import DUMP, OUTBOX, UPLOAD
from shared.storage.parts import Kind
from shared.storage.reaper import Reaper
from tests.integration.export_plant import url_as
from tests.integration.jobs_in import (
    add_job,
    claim,
    claimed_upload,
    empty,
    find,
    held_job,
    lapse,
    parts_of,
    rows_of,
)

BOTH = pytest.mark.parametrize("group", StageGroup)
NUDGES = {StageGroup.DUMP: DUMP, StageGroup.UPLOAD: UPLOAD}
NOTHING = {"released": 0, "buried": 0, "cancelled": 0}


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here, emptied before each."""
    return home


@pytest.fixture(autouse=True)
async def _emptied(connection: asyncpg.Connection) -> None:
    await empty(connection)


@pytest.fixture
async def gateway(control_plane_url: str, role_passwords: dict[str, str]) -> AsyncIterator[Database]:
    """The control plane as the service with the fewest rights sees it."""
    url = url_as(control_plane_url, "pgferry_gateway", role_passwords["gateway"])
    async with open_database(url, name="pgferry-gateway") as database:
        yield database


def reaper(database: Database, *, attempts: int = 3, grace_seconds: float = 0) -> Reaper:
    return Reaper(database, attempts, grace_seconds)


@BOTH
async def test_a_lapsed_job_goes_back_to_where_its_half_begins(
    control_plane: Database, gateway: Database, connection: asyncpg.Connection, group: StageGroup
) -> None:
    """Its attempt stays spent, workers are woken, and the worker that only slept may change nothing."""
    held = await held_job(control_plane, group)
    before = await find(control_plane, held.job_id)
    woken = gateway.nudges.event(NUDGES[group])
    await lapse(connection, held.job_id)

    assert await reaper(gateway)() == NOTHING | {"released": 1}

    job = await find(control_plane, held.job_id)
    assert (job.status, job.stage, job.fence) == (Status.RUNNING, HALVES[group].waiting, held.fence + 1)
    assert (job.dump_attempts, job.upload_attempts) == (before.dump_attempts, before.upload_attempts)
    holders = await connection.fetch("SELECT owner, lease_until FROM control_plane.jobs")
    assert [tuple(row) for row in holders] == [(None, None)]
    assert woken.is_set()
    with pytest.raises(LeaseLost):
        async with control_plane.session() as session:
            await session.jobs.renew(held)
    again = await claim(control_plane, group)
    assert again is not None
    assert (again.job_id, again.attempts) == (held.job_id, held.attempts + 1)


async def test_live_workers_come_first(control_plane: Database, connection: asyncpg.Connection) -> None:
    """Until the grace is over a lapsed job is theirs, and a job that is held is its worker's."""
    held = await held_job(control_plane, StageGroup.DUMP)
    assert await reaper(control_plane)() == NOTHING
    await lapse(connection, held.job_id)
    before = await rows_of(connection)

    assert await reaper(control_plane, grace_seconds=60)() == NOTHING

    assert await rows_of(connection) == before


@pytest.mark.parametrize(
    ("group", "service"), [(StageGroup.DUMP, "exporter"), (StageGroup.UPLOAD, "uploader")]
)
async def test_the_last_attempt_of_a_dead_worker_is_a_failure(
    control_plane: Database,
    gateway: Database,
    connection: asyncpg.Connection,
    group: StageGroup,
    service: str,
) -> None:
    """One transaction fails the job, says so, and keeps its command with the reasons, as a worker does."""
    held = await held_job(control_plane, group)
    await connection.execute("DELETE FROM control_plane.outbox")
    await lapse(connection, held.job_id)

    assert await reaper(gateway, attempts=1)() == NOTHING | {"buried": 1}

    job = await find(control_plane, held.job_id)
    assert (job.status, job.stage, job.fence) == (Status.FAILED, HALVES[group].held, held.fence + 1)
    assert (job.error_code, job.error_message) == (
        "attempts_exhausted",
        "1 attempts ended without a result: their workers died.",
    )
    event, letter = await connection.fetch(
        "SELECT routing_key, headers::text, body FROM control_plane.outbox ORDER BY sequence"
    )
    assert event["routing_key"] == "backup.failed.v1"
    assert letter["routing_key"] == f"dead.{service}"
    assert letter["body"] == job.command
    for said in ('"x-reason": "attempts_exhausted"', '"x-attempts": 1', f'"x-service": "{service}"'):
        assert said in letter["headers"]
    with pytest.raises(LeaseLost):
        async with control_plane.session() as session:
            await session.jobs.renew(held)


async def test_an_attempt_that_only_says_that_the_others_are_used_up_counts_for_none(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Its worker died, too: the job had as many attempts as it may have."""
    held = await held_job(control_plane, StageGroup.DUMP)
    await connection.execute("UPDATE control_plane.jobs SET dump_attempts = 4")
    await lapse(connection, held.job_id)

    await reaper(control_plane)()

    job = await find(control_plane, held.job_id)
    assert (job.status, job.dump_attempts) == (Status.FAILED, 3)


@BOTH
async def test_a_cancel_that_a_dead_worker_did_not_see_is_carried_out(
    control_plane: Database, gateway: Database, connection: asyncpg.Connection, group: StageGroup
) -> None:
    """The project is free, the fence is raised, and what was sent is to be deleted."""
    held = await held_job(control_plane, group)
    if group is StageGroup.UPLOAD:
        async with control_plane.session() as session:
            await session.parts.plan(held, Kind.PART, parts_of(2))
    await cancel(control_plane, held.job_id, actor="test")
    woken = gateway.nudges.event(DUMP)
    assert await reaper(gateway)() == NOTHING
    await lapse(connection, held.job_id)

    assert await reaper(gateway)() == NOTHING | {"cancelled": 1}

    job = await find(control_plane, held.job_id)
    assert (job.status, job.stage, job.fence) == (Status.CANCELLED, HALVES[group].held, held.fence + 1)
    parts = await connection.fetch("SELECT status FROM control_plane.backup_parts")
    assert {part["status"] for part in parts} == ({"superseded"} if group is StageGroup.UPLOAD else set())
    assert woken.is_set()


async def test_two_at_once_do_each_thing_once(
    control_plane: Database, gateway: Database, connection: asyncpg.Connection
) -> None:
    """Also if both think that they lead: each job is put back, given up or cancelled by one of them."""
    jobs = []
    for number in range(12):
        await add_job(control_plane, f"project-{number}")
        held = await claim(control_plane)
        assert held is not None
        jobs.append(held.job_id)
    await connection.execute(
        "UPDATE control_plane.jobs SET dump_attempts = 3 WHERE id = ANY($1::uuid[])", jobs[:4]
    )
    for job_id in jobs[4:8]:
        await cancel(control_plane, job_id, actor="test")
    await connection.execute("UPDATE control_plane.jobs SET lease_until = now() - interval '1 second'")
    await connection.execute("DELETE FROM control_plane.outbox")

    done = await asyncio.gather(
        *(reaper(database)() for database in (control_plane, gateway) for _ in range(3))
    )

    assert {kind: sum(one[kind] for one in done) for kind in NOTHING} == {
        "released": 4,
        "buried": 4,
        "cancelled": 4,
    }
    assert {row["fence"] for row in await connection.fetch("SELECT fence FROM control_plane.jobs")} == {2}
    letters = await connection.fetchval(
        "SELECT count(DISTINCT correlation_id) FROM control_plane.outbox WHERE routing_key = 'dead.exporter'"
    )
    assert letters == 4
    assert await connection.fetchval("SELECT count(*) FROM control_plane.outbox") == 8


async def test_rows_that_no_relay_takes_wake_all_relays(
    control_plane: Database, gateway: Database, connection: asyncpg.Connection
) -> None:
    """Those that have been due for long, and not those that have just come or wait for their time."""
    await add_job(control_plane)
    woken = gateway.nudges.event(OUTBOX)
    left_over = LeftOver(gateway, after_seconds=15)

    assert await left_over() == {"left_over": 0}
    assert not woken.is_set()

    await connection.execute("UPDATE control_plane.outbox SET run_after = now() - interval '1 minute'")

    assert await left_over() == {"left_over": 1}
    assert woken.is_set()


async def test_what_an_upload_has_sent_stays_when_it_is_put_back(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """The next worker goes on where the dead one was."""
    held = await claimed_upload(control_plane)
    async with control_plane.session() as session:
        await session.parts.plan(held, Kind.PART, parts_of(2))
    await lapse(connection, held.job_id)

    await reaper(control_plane)()

    statuses = await connection.fetch("SELECT status FROM control_plane.backup_parts")
    assert [row["status"] for row in statuses] == ["planned", "planned"]
