"""Accepting requests: which job each gets, what is announced, and that many rows do not slow it down."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from sandbox.postgres import PostgresServer
from shared.contracts.job import HALVES, Priority, StageGroup, Status
from shared.contracts.messages import ExportRequested
from shared.contracts.topology import COMMANDS
from shared.storage import left_over, reaper, retention, sweeper
from shared.storage.database import Database, open_database
from shared.storage.jobs import _CLAIM as CLAIM_JOB
from shared.storage.outbox import _CLAIM as CLAIM_OUTBOX
from shared.storage.requests import _ACCEPT as ACCEPT
from shared.storage.requests import Outcome, _arguments, accept
from tests.integration.jobs_in import (
    claim,
    copied_database,
    empty,
    find,
    must_claim,
    request_of,
)

_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here, emptied before each."""
    return home


@pytest.fixture(autouse=True)
async def _emptied(connection: asyncpg.Connection) -> None:
    await empty(connection)


async def test_a_request_becomes_a_job_with_its_command_and_audit(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """One statement writes all four rows; the command's message id is the request id."""
    request = replace(request_of(caption="yearly", notify_email="a@example.org"), traceparent=_TRACEPARENT)
    accepted = await accept(control_plane, request)
    job = accepted.job
    [outbox] = await connection.fetch("SELECT * FROM control_plane.outbox")
    [asked] = await connection.fetch("SELECT * FROM control_plane.job_requests")
    [audit] = await connection.fetch("SELECT * FROM control_plane.audit_log")

    assert (accepted.outcome, job.status, job.options.caption) == (Outcome.CREATED, Status.PENDING, "yearly")
    assert (outbox["id"], outbox["correlation_id"]) == (request.request_id, job.id)
    assert (outbox["exchange"], outbox["routing_key"]) == (COMMANDS, ExportRequested.type)
    assert ExportRequested.model_validate_json(outbox["body"]).project_id == "acme"
    assert outbox["body"] == job.command
    assert _TRACEPARENT in outbox["headers"]
    assert (asked["request_id"], asked["job_id"]) == (request.request_id, job.id)
    assert asked["notify_email"] == "a@example.org"
    assert (audit["actor"], audit["action"], audit["job_id"]) == ("user:tester", "export.request", job.id)


async def test_what_came_by_the_broker_is_not_sent_there_again(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """The original bytes are kept for a dead letter."""
    command = b'{"project_id": "acme", "from": "the platform"}'

    accepted = await accept(control_plane, replace(request_of(), announce=False, command=command))

    assert accepted.job.command == command
    assert await connection.fetchval("SELECT count(*) FROM control_plane.outbox") == 0


async def test_a_request_like_a_waiting_one_joins_it(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Same options, same job: every requester keeps an id and is mailed; the higher priority wins."""
    requests = [
        request_of(notify_email="a@example.org"),
        request_of(notify_email="b@example.org", priority="high"),
        request_of(notify_email="c@example.org", priority="normal"),
    ]
    accepted = [await accept(control_plane, request) for request in requests]
    job = await find(control_plane, accepted[0].job.id)
    asked = await connection.fetch("SELECT * FROM control_plane.job_requests ORDER BY created_at")
    audit = await connection.fetch("SELECT action FROM control_plane.audit_log ORDER BY at, id")

    assert [one.outcome for one in accepted] == [Outcome.CREATED, Outcome.COALESCED, Outcome.COALESCED]
    assert {one.job.id for one in accepted} == {job.id}
    assert job.options.priority is Priority.HIGH
    assert [(row["request_id"], row["notify_email"]) for row in asked] == [
        (request.request_id, request.options.notify_email) for request in requests
    ]
    assert [row["action"] for row in audit] == ["export.request", "export.coalesce", "export.coalesce"]
    assert await connection.fetchval("SELECT count(*) FROM control_plane.outbox") == 1


@pytest.mark.parametrize(
    "option",
    [
        {"format": "tar"},
        {"compression": "none"},
        {"filename": "books"},
        {"caption": "books"},
        {"storage_path": "books/2026"},
        {"expires_in_days": 7},
    ],
)
async def test_other_options_are_another_job(control_plane: Database, option: dict[str, str]) -> None:
    """Whatever makes the backup another one; the same option again joins that other job."""
    first = await accept(control_plane, request_of())
    other = await accept(control_plane, request_of(**option))
    again = await accept(control_plane, request_of(**option))

    assert other.outcome is Outcome.CREATED
    assert other.job.id != first.job.id
    assert again.job.id == other.job.id


async def test_another_project_is_another_job(control_plane: Database) -> None:
    """The same wish for two projects is two backups."""
    first = await accept(control_plane, request_of("acme"))
    second = await accept(control_plane, request_of("globex"))

    assert first.job.id != second.job.id
    assert second.outcome is Outcome.CREATED


async def test_a_running_job_is_not_joined(control_plane: Database) -> None:
    """Its snapshot is older than the request."""
    first = await accept(control_plane, request_of())
    await must_claim(control_plane)

    second = await accept(control_plane, request_of())

    assert second.outcome is Outcome.CREATED
    assert second.job.id != first.job.id


async def test_a_known_request_id_is_the_same_request(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Also when it says something else by now, and after its job began; nothing is written."""
    request = request_of()
    first = await accept(control_plane, request)
    await must_claim(control_plane)

    again = await accept(control_plane, replace(request_of(format="tar"), request_id=request.request_id))

    assert (again.outcome, again.job.id, again.job.status) == (Outcome.KNOWN, first.job.id, Status.RUNNING)
    for table in ("jobs", "job_requests", "outbox", "audit_log"):
        assert await connection.fetchval(f"SELECT count(*) FROM control_plane.{table}") == 1


@pytest.mark.parametrize("projects", [1, 20])
async def test_one_request_id_at_once_is_one_job(
    control_plane: Database, connection: asyncpg.Connection, projects: int
) -> None:
    """Twenty at one moment, even if they disagree on the project: one creates, the others learn of it."""
    request_id = uuid4()
    requests = [
        replace(request_of(f"project-{number % projects}"), request_id=request_id) for number in range(20)
    ]

    accepted = await asyncio.gather(*(accept(control_plane, request) for request in requests))

    assert len({one.job.id for one in accepted}) == 1
    assert sorted(one.outcome for one in accepted) == [Outcome.CREATED] + 19 * [Outcome.KNOWN]
    for table in ("jobs", "job_requests", "outbox", "audit_log"):
        assert await connection.fetchval(f"SELECT count(*) FROM control_plane.{table}") == 1


async def test_equal_requests_at_once_are_one_job(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Twenty requesters who want the same: one job, twenty ids, one command, twenty audit rows."""
    accepted = await asyncio.gather(*(accept(control_plane, request_of()) for _ in range(20)))

    assert sorted(one.outcome for one in accepted) == 19 * [Outcome.COALESCED] + [Outcome.CREATED]
    assert len({one.job.id for one in accepted}) == 1
    for table, rows in {"jobs": 1, "job_requests": 20, "outbox": 1, "audit_log": 20}.items():
        assert await connection.fetchval(f"SELECT count(*) FROM control_plane.{table}") == rows


async def test_requests_race_with_a_claim(control_plane: Database, connection: asyncpg.Connection) -> None:
    """However they interleave, a request joins the job while it is pending or makes one of its own."""
    for number in range(10):
        project = f"project-{number}"
        first = await accept(control_plane, request_of(project))
        second, held = await asyncio.gather(accept(control_plane, request_of(project)), claim(control_plane))

        held = held or await must_claim(control_plane)  # a row that is being joined is passed over
        assert held.job_id == first.job.id
        assert second.outcome is (Outcome.COALESCED if second.job.id == first.job.id else Outcome.CREATED)
        await connection.execute("DELETE FROM control_plane.jobs")


async def test_a_command_that_outlived_its_job_does_not_block_its_id(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Somebody removed the job while its outbox row was kept: asked again, there is a job again."""
    request = request_of()
    first = await accept(control_plane, request)
    await connection.execute("DELETE FROM control_plane.jobs")

    again = await asyncio.wait_for(accept(control_plane, request), timeout=5)

    assert again.outcome is Outcome.CREATED
    assert again.job.id != first.job.id


# Many rows

JOBS = 60_000
_MANY = f"""
    INSERT INTO control_plane.jobs
        (id, project_id, status, stage, format, compression, options_hash, fence, dump_fence, command,
         created_at, started_at, claimed_at, finished_at, run_after)
    SELECT gen_random_uuid(), 'project-' || n % 5000,
           (ARRAY['completed', 'failed', 'cancelled', 'completed'])[1 + n % 4],
           (ARRAY['stored', 'dumping', 'queued', 'stored'])[1 + n % 4],
           'sql', 'zstd', int8send(n), 2, 1, '{{}}',
           at, at, at, at, at
      FROM (SELECT n, now() - make_interval(secs => n) AS at FROM generate_series(1, {JOBS}) AS n) AS made;
    INSERT INTO control_plane.jobs
        (id, project_id, status, stage, format, compression, options_hash, command)
    SELECT gen_random_uuid(), 'project-' || n % 500, 'pending', 'queued', 'sql', 'zstd', int8send(n), '{{}}'
      FROM generate_series(1, 1000) AS n;
    INSERT INTO control_plane.outbox (id, exchange, routing_key, message_type, body, sent_at)
    SELECT gen_random_uuid(), 'pgferry.commands', 'export.requested.v1', 'export.requested.v1', '{{}}', now()
      FROM generate_series(1, {JOBS // 10}) AS n;
    INSERT INTO control_plane.backup_parts (job_id, dump_fence, kind, index, status, size_bytes, sha256)
    SELECT id, 1, 'part', 0, 'superseded', 1, '' FROM control_plane.jobs LIMIT {JOBS // 10};
    INSERT INTO control_plane.backups
        (id, project_id, job_id, size_bytes, sha256, part_count, filename, bot_id, chat_id)
    SELECT gen_random_uuid(), project_id, id, 1, '', 1, '', 1, 1
      FROM control_plane.jobs WHERE status = 'completed' LIMIT {JOBS // 10};
    INSERT INTO control_plane.audit_log (actor, action, at)
    SELECT 'user:tester', 'export.request', now() - make_interval(secs => n)
      FROM generate_series(1, {JOBS // 10}) AS n;
    INSERT INTO control_plane.job_requests (request_id, job_id, project_id, source)
    SELECT gen_random_uuid(), id, project_id, 'http' FROM control_plane.jobs LIMIT 5000;
    ANALYZE control_plane.jobs, control_plane.outbox, control_plane.job_requests, control_plane.backup_parts,
        control_plane.backups, control_plane.audit_log;
"""


@pytest.fixture(scope="module")
async def many_jobs_url(postgres_server: PostgresServer, control_plane_template: str) -> AsyncIterator[str]:
    """A control plane that has worked for years: two hundred thousand jobs have ended, a thousand wait."""
    async with copied_database(postgres_server, control_plane_template) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(_MANY)
        await connection.close()
        yield url


def _claim_arguments(group: StageGroup) -> tuple[object, ...]:
    half = HALVES[group]
    at_most = 5 if group is StageGroup.DUMP else None
    return half.waiting, half.held, "tester", 60.0, group.value, at_most


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        pytest.param(CLAIM_JOB, _claim_arguments(StageGroup.DUMP), id="claim-dump"),
        pytest.param(CLAIM_JOB, _claim_arguments(StageGroup.UPLOAD), id="claim-upload"),
        pytest.param(ACCEPT, _arguments(request_of("project-7")), id="accept"),
        pytest.param(CLAIM_OUTBOX, (100, 30.0), id="claim-outbox"),
        pytest.param(reaper.RELEASE, (15.0, 3, 100), id="release"),
        pytest.param(reaper.TAKE_EXHAUSTED, (15.0, 3, "tester", 60.0), id="bury"),
        pytest.param(reaper.FIND_ASKED, (15.0,), id="cancel-lapsed"),
        pytest.param(left_over.COUNT, (15.0, 1000), id="left-over"),
        pytest.param(sweeper.SUPERSEDE, (86400.0, 500), id="give-up-parts"),
        pytest.param(retention.OUTBOX, (604800.0, 500), id="forget-outbox"),
        pytest.param(retention.AUDIT, (604800.0, 500), id="forget-audit"),
        pytest.param(retention.JOBS, (3600.0, 500, datetime.now(UTC), UUID(int=0)), id="forget-jobs"),
    ],
)
async def test_hot_statements_read_no_table_from_end_to_end(
    many_jobs_url: str, statement: str, arguments: tuple[object, ...]
) -> None:
    """The plan that PostgreSQL makes with current statistics uses indexes only."""
    async with open_database(many_jobs_url, name="test") as database, database.session() as session:
        explained = await session.executor.fetch(f"EXPLAIN {statement}", *arguments)
    plan = [record[0] for record in explained]

    assert any("Index" in line for line in plan)
    assert not [line for line in plan if "Seq Scan" in line]


async def test_a_claim_among_many_jobs_is_quick(many_jobs_url: str) -> None:
    """Under 50 ms at two hundred thousand ended and a thousand waiting jobs."""
    seconds = []
    async with open_database(many_jobs_url, name="test") as database:
        await claim(database)  # connects
        for _ in range(5):
            begin = time.perf_counter()
            assert await claim(database, at_most=10) is not None
            seconds.append(time.perf_counter() - begin)

    assert min(seconds) < 0.25
