"""Asking for a job to end: what the request comes to, and how it meets the job's own end."""

import asyncio
import time
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.contracts.job import Stage, StageGroup, Status
from shared.storage.cancel import Cancellation, Way, cancel
from shared.storage.database import Database, open_database
from shared.storage.nudges import cancel_of
from tests.integration.jobs_in import (
    add_job,
    claim,
    dump_of,
    empty,
    find,
    held_job,
    lapse,
    must_claim,
)
from tests.waiting import beside, eventually

BOTH = pytest.mark.parametrize("group", StageGroup)


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here, emptied before each."""
    return home


@pytest.fixture(autouse=True)
async def _emptied(connection: asyncpg.Connection) -> None:
    await empty(connection)


async def cancelled(database: Database, job_id: UUID) -> Cancellation:
    done = await cancel(database, job_id, actor="somebody")
    assert done is not None
    return done


async def audited(connection: asyncpg.Connection) -> list[str]:
    """In which ways jobs were cancelled, by the audit."""
    rows = await connection.fetch(
        "SELECT detail->>'way' AS way FROM control_plane.audit_log"
        " WHERE action = 'job.cancel' AND actor = 'somebody' ORDER BY id"
    )
    return [row["way"] for row in rows]


async def test_a_waiting_job_is_cancelled_at_once(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """And a second request for it comes too late, changes nothing, and is not audited."""
    job_id = await add_job(control_plane)

    done, again = [await cancelled(control_plane, job_id) for _ in range(2)]

    assert (done.way, done.job.status, done.job.error_code) == (Way.AT_ONCE, Status.CANCELLED, "cancelled")
    assert (again.way, again.job) == (Way.TOO_LATE, done.job)
    assert await audited(connection) == ["at_once"]


async def test_a_job_that_nobody_knows_is_not_cancelled(control_plane: Database) -> None:
    """There is nothing to say of it."""
    assert await cancel(control_plane, uuid4(), actor="somebody") is None


@BOTH
async def test_a_held_job_is_asked_for_once(
    control_plane: Database, connection: asyncpg.Connection, group: StageGroup
) -> None:
    """Its lease stays its worker's; asking again tells the worker again, and is not audited again."""
    held = await held_job(control_plane, group)

    first, again = [await cancelled(control_plane, held.job_id) for _ in range(2)]

    assert (first.way, again.way) == (Way.ASKED, Way.ASKED_BEFORE)
    assert (first.job.status, first.job.fence) == (Status.RUNNING, held.fence)
    assert first.job.cancel_requested_at == again.job.cancel_requested_at is not None
    assert await audited(connection) == ["asked"]


@BOTH
async def test_whoever_asks_again_ends_the_job_of_a_dead_worker(
    control_plane: Database, connection: asyncpg.Connection, group: StageGroup
) -> None:
    """Nobody claims it; a worker that only slept finds its fence gone."""
    held = await held_job(control_plane, group)
    await cancelled(control_plane, held.job_id)
    await lapse(connection, held.job_id)
    assert await claim(control_plane, group) is None

    done = await cancelled(control_plane, held.job_id)

    assert (done.way, done.job.status, done.job.fence) == (Way.AT_ONCE, Status.CANCELLED, held.fence + 1)
    assert await audited(connection) == ["asked", "at_once"]


async def test_a_cancel_that_meets_the_end_of_the_dump_finds_it_dumped(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """It waits for the exporter's commit; then nobody holds the job, and it is cancelled at once."""
    await add_job(control_plane)
    held = await must_claim(control_plane)

    async with asyncio.TaskGroup() as tasks, control_plane.transaction() as transaction:
        await transaction.jobs.dumped(held, dump_of(held))
        request = tasks.create_task(cancelled(control_plane, held.job_id))
        await eventually(partial(_somebody_waits_for_a_lock, connection))

    done = request.result()
    assert (done.way, done.job.status, done.job.stage) == (Way.AT_ONCE, Status.CANCELLED, Stage.DUMPED)


async def _somebody_waits_for_a_lock(connection: asyncpg.Connection) -> bool:
    return await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)") is True


async def test_another_process_hears_of_a_cancel(control_plane: Database, control_plane_url: str) -> None:
    """Whoever watches this job, and nobody else; of a job that nobody watches nothing is kept."""
    held = await held_job(control_plane, StageGroup.DUMP)
    async with (
        open_database(control_plane_url, name="pgferry-test") as other,
        beside(other.nudges.listen()),
    ):
        with (
            other.nudges.watching(cancel_of(held.job_id)) as mine,
            other.nudges.watching(cancel_of(uuid4())) as another,
        ):
            await asyncio.wait_for(mine.wait(), timeout=5)  # it listens, and says so to everybody
            mine.clear()
            another.clear()
            begin = time.monotonic()
            await cancelled(control_plane, held.job_id)
            await asyncio.wait_for(mine.wait(), timeout=5)

            assert time.monotonic() - begin < 1
            assert not another.is_set()
    assert (await find(control_plane, held.job_id)).status is Status.RUNNING
