"""What is forgotten, when, and what never is."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.storage.database import Database, open_database
from shared.storage.retention import Retention
from tests.integration.export_plant import url_as
from tests.integration.jobs_in import empty

NOTHING = {"outbox": 0, "jobs": 0, "audit": 0, "keys": 0, "suspected": 0}
_ADD_JOB = """
    INSERT INTO control_plane.jobs
        (id, project_id, status, stage, format, compression, options_hash, dump_fence, command, finished_at)
    VALUES ($1, 'acme', $2, $3, 'sql', 'zstd', '', 1, '', now() - $4 * interval '1 day')
"""
_ADD_MESSAGE = """
    INSERT INTO control_plane.outbox (id, exchange, routing_key, message_type, body, created_at, sent_at)
    VALUES ($1, 'e', 'k', 't', '', now() - interval '1 year', now() - $2::float * interval '1 day')
"""
_STAGES = {"completed": "stored", "failed": "uploading", "cancelled": "dumped", "running": "dumped"}


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here, emptied before each."""
    return home


@pytest.fixture(autouse=True)
async def _emptied(connection: asyncpg.Connection) -> None:
    await empty(connection)
    await connection.execute("DELETE FROM control_plane.backups")
    await connection.execute("DELETE FROM control_plane.suspected_sends")


@pytest.fixture(params=["exporter", "uploader"])
async def worker(
    control_plane_url: str, role_passwords: dict[str, str], request: pytest.FixtureRequest
) -> AsyncIterator[Database]:
    """The control plane with the rights of a service that forgets."""
    url = url_as(control_plane_url, f"pgferry_{request.param}", role_passwords[request.param])
    async with open_database(url, name="test") as database:
        yield database


def retention(database: Database, *, batch: int = 500, batches: int = 10) -> Retention:
    return Retention(database, 7, 90, 400, batch=batch, batches=batches)


async def add_job(
    connection: asyncpg.Connection, status: str = "failed", *, days: float = 91, part: str | None = None
) -> UUID:
    """One that ended so many days ago, with a part in this state."""
    job_id = uuid4()
    await connection.execute(_ADD_JOB, job_id, status, _STAGES[status], days if status != "running" else None)
    if part:
        await connection.execute(
            "INSERT INTO control_plane.backup_parts (job_id, dump_fence, kind, index, status, size_bytes,"
            " sha256, message_id, file_id) VALUES ($1, 1, 'part', 0, $2, 1, '', 1, 'f')",
            job_id,
            part,
        )
    return job_id


async def add_backup(connection: asyncpg.Connection, job_id: UUID, status: str) -> None:
    await connection.execute(
        "INSERT INTO control_plane.backups (id, project_id, job_id, status, size_bytes, sha256, part_count,"
        " filename, bot_id, chat_id) VALUES ($1, 'acme', $2, $3, 1, '', 1, 'f', 1, 1)",
        uuid4(),
        job_id,
        status,
    )


async def jobs(connection: asyncpg.Connection) -> set[UUID]:
    return {record["id"] for record in await connection.fetch("SELECT id FROM control_plane.jobs")}


async def test_sent_messages_are_forgotten_after_their_days(
    worker: Database, connection: asyncpg.Connection
) -> None:
    """One that was never sent is kept, however old."""
    old, young, unsent = uuid4(), uuid4(), uuid4()
    for message, days in ((old, 7.1), (young, 6.9), (unsent, None)):
        await connection.execute(_ADD_MESSAGE, message, days)

    assert await retention(worker)() == NOTHING | {"outbox": 1}

    left = await connection.fetch("SELECT id FROM control_plane.outbox")
    assert {row["id"] for row in left} == {young, unsent}


async def test_audit_rows_are_forgotten_after_their_days(
    worker: Database, connection: asyncpg.Connection
) -> None:
    for days in (401, 399):
        await connection.execute(
            "INSERT INTO control_plane.audit_log (actor, action, at)"
            " VALUES ('a', 'b', now() - $1 * interval '1 day')",
            days,
        )

    assert await retention(worker)() == NOTHING | {"audit": 1}

    assert await connection.fetchval("SELECT now() - at < '400 days' FROM control_plane.audit_log") is True


async def test_ended_jobs_are_forgotten_after_their_days(
    worker: Database, connection: asyncpg.Connection
) -> None:
    """With their requests, keys, and parts that are deleted; what remains in the chat stays on record."""
    gone = [
        await add_job(connection, "failed"),
        await add_job(connection, "cancelled", part="deleted"),
        await add_job(connection, "completed", part="remote_remains"),
    ]
    await add_backup(connection, gone[2], "deleted")
    await connection.execute(
        "INSERT INTO control_plane.job_requests (request_id, job_id, project_id, source)"
        " VALUES ($1, $2, 'acme', 'http')",
        uuid4(),
        gone[0],
    )
    young = await add_job(connection, "failed", days=89)

    assert await retention(worker)() == NOTHING | {"jobs": 3}

    assert await jobs(connection) == {young}
    assert await connection.fetchval("SELECT count(*) FROM control_plane.job_requests") == 0
    parts = await connection.fetch("SELECT status FROM control_plane.backup_parts")
    assert [part["status"] for part in parts] == ["remote_remains"]
    assert await connection.fetchval("SELECT job_id FROM control_plane.backups") == gone[2]


async def test_a_job_stays_while_anything_depends_on_it(
    worker: Database, connection: asyncpg.Connection
) -> None:
    """Its backup is there, or parts of it are to be deleted from the chat, or it has not ended."""
    backed_up = await add_job(connection, "completed", part="deleted")
    await add_backup(connection, backed_up, "stored")
    stay = {
        backed_up,
        await add_job(connection, "failed", part="sent"),
        await add_job(connection, "cancelled", part="superseded"),
        await add_job(connection, "running"),
    }

    assert await retention(worker)() == NOTHING

    assert await jobs(connection) == stay


async def test_expired_keys_are_forgotten(worker: Database, connection: asyncpg.Connection) -> None:
    """A key that is still valid stays with its job."""
    job_id = await add_job(connection, days=1)
    for key, hours in (("old", -1), ("young", 1)):
        await connection.execute(
            "INSERT INTO control_plane.idempotency_keys"
            " (project_id, key, request_hash, request_id, job_id, expires_at)"
            " VALUES ('acme', $1, '', $2, $3, now() + $4 * interval '1 hour')",
            key,
            uuid4(),
            job_id,
            hours,
        )

    assert await retention(worker)() == NOTHING | {"keys": 1}

    assert await connection.fetchval("SELECT key FROM control_plane.idempotency_keys") == "young"


async def test_a_round_is_bounded_and_the_next_goes_on(
    worker: Database, connection: asyncpg.Connection
) -> None:
    """Rounds of two batches of three, past jobs that stay, to the end and then from the beginning."""
    stay = {await add_job(connection, days=100, part="sent") for _ in range(9)}
    for _ in range(8):
        await add_job(connection, days=95)
    for _ in range(10):
        await connection.execute(_ADD_MESSAGE, uuid4(), 8)
    forgets = retention(worker, batch=3, batches=2)

    done = [await forgets() for _ in range(4)]

    assert [one["outbox"] for one in done] == [6, 4, 0, 0]
    assert [one["jobs"] for one in done] == [0, 3, 5, 0]
    assert await jobs(connection) == stay
    await connection.execute("UPDATE control_plane.backup_parts SET status = 'deleted'")
    assert sum([(await forgets())["jobs"] for _ in range(3)]) == 9


async def test_the_gateway_cannot_delete_history(
    control_plane_url: str, role_passwords: dict[str, str], connection: asyncpg.Connection
) -> None:
    """It has no right to, for strangers speak to it."""
    gateway = await asyncpg.connect(url_as(control_plane_url, "pgferry_gateway", role_passwords["gateway"]))
    try:
        for table in ("jobs", "outbox", "audit_log", "backup_parts", "backups"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await gateway.execute(f"DELETE FROM control_plane.{table}")
    finally:
        await gateway.close()


async def test_suspected_sends_are_forgotten_with_the_audit_log(
    worker: Database, connection: asyncpg.Connection
) -> None:
    """Resolved or not: nobody looks for such a document after a year."""
    for days in (399, 401):
        await connection.execute(
            "INSERT INTO control_plane.suspected_sends (job_id, dump_fence, kind, index, bot_id, chat_id,"
            " size_bytes, sha256, suspected_at)"
            " VALUES ($1, 1, 'part', $2, 1, 1, 1, '', now() - make_interval(days => $2))",
            uuid4(),
            days,
        )

    assert await retention(worker)() == NOTHING | {"suspected": 1}
    assert await connection.fetchval("SELECT index FROM control_plane.suspected_sends") == 399
