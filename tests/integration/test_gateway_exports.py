"""What the API answers to good requests, and in which order it checks the others."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import jwt
import pytest
import pytest_asyncio
import structlog

from sandbox.postgres import PostgresServer
from tests.integration.gateway_api import (
    EXPORT,
    SECRET,
    Gateway,
    bearer,
    control_plane,
    gateway_on,
    good_claims,
    operator_token,
    token_for,
)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest_asyncio.fixture(scope="module")
async def plane_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    async with control_plane(postgres_server) as url:
        yield url


@pytest_asyncio.fixture(scope="module")
async def gateway(plane_url: str) -> AsyncIterator[Gateway]:
    """One for all tests here; each uses a project of its own."""
    async with gateway_on(plane_url) as gateway:
        yield gateway


@pytest.fixture
def project() -> str:
    return f"project-{uuid4().hex[:8]}"


async def test_an_export_is_accepted_and_its_job_readable_at_once(gateway: Gateway, project: str) -> None:
    """202 with the job, and its Location answers."""
    before = datetime.now(UTC)

    answer = await gateway.export({"project_id": project})

    assert answer.status == 202
    assert set(answer.data) == {"job_id", "status", "project_id", "created_at"}
    assert (answer.data["status"], answer.data["project_id"]) == ("pending", project)
    created_at = str(answer.data["created_at"])
    assert created_at.endswith("Z")
    assert abs((datetime.fromisoformat(created_at) - before).total_seconds()) < 10
    location = answer.headers["Location"]
    assert location == f"/api/backup/jobs/{answer.data['job_id']}"
    job = await gateway.call("GET", location, headers=bearer(token_for(project)))
    assert (job.status, job.headers["Retry-After"]) == (200, "2")


async def test_command_request_and_audit_row_are_written_with_the_job(gateway: Gateway, project: str) -> None:
    """The job, the command that announces it and the note of who asked are there together."""
    body = {"project_id": project, "notify_email": "a@example.com"}
    accepted = await gateway.export(body, headers={"traceparent": TRACEPARENT})
    job_id = UUID(str(accepted.data["job_id"]))

    async with gateway.database.session() as session:
        row = await session.executor.fetchrow(
            """
            SELECT request.request_id = outbox.id AS same_id, request.notify_email, request.source,
                   outbox.exchange, outbox.routing_key, outbox.headers,
                   audit.actor, audit.action, audit.client
              FROM control_plane.job_requests AS request
              JOIN control_plane.outbox AS outbox ON outbox.correlation_id = request.job_id
              JOIN control_plane.audit_log AS audit ON audit.job_id = request.job_id
             WHERE request.job_id = $1
            """,
            job_id,
        )

    assert row is not None
    assert dict(row) == {
        "same_id": True,
        "notify_email": "a@example.com",
        "source": "http",
        "exchange": "pgferry.commands",
        "routing_key": "export.requested.v1",
        "headers": {"traceparent": TRACEPARENT},
        "actor": "tester",
        "action": "export.request",
        "client": "127.0.0.1",
    }


@pytest.mark.parametrize(
    "traceparent", ["", "00-0-0-0", TRACEPARENT + "\t00", TRACEPARENT.replace("0af", "0AF")]
)
async def test_a_malformed_traceparent_is_dropped(gateway: Gateway, project: str, traceparent: str) -> None:
    """It costs the trace, not the request."""
    accepted = await gateway.export({"project_id": project}, headers={"traceparent": traceparent})

    assert accepted.status == 202
    async with gateway.database.session() as session:
        job = await session.jobs.find(UUID(str(accepted.data["job_id"])))
    assert job is not None
    assert job.traceparent is None


async def test_the_same_wish_joins_the_waiting_job_and_the_higher_priority_wins(
    gateway: Gateway, project: str
) -> None:
    """200 with that job, in the same shape; other options are another job."""
    first = await gateway.export({"project_id": project})
    urgent = await gateway.export({"project_id": project, "priority": "high"})
    calm = await gateway.export({"project_id": project})
    other = await gateway.export({"project_id": project, "compression": "none"})

    assert [answer.status for answer in (first, urgent, calm, other)] == [202, 200, 200, 202]
    assert first.data == urgent.data == calm.data
    assert first.headers["Location"] == urgent.headers["Location"]
    assert other.data["job_id"] != first.data["job_id"]
    job = await gateway.job(first.data["job_id"], token_for(project))
    assert job.data["priority"] == "high"


async def test_many_equal_requests_at_once_make_one_job(gateway: Gateway, project: str) -> None:
    """One of twenty is told 202, the others 200, all the same job."""
    answers = await asyncio.gather(*(gateway.export({"project_id": project}) for _ in range(20)))

    assert sorted(answer.status for answer in answers) == [200] * 19 + [202]
    assert len({answer.data["job_id"] for answer in answers}) == 1
    async with gateway.database.session() as session:
        jobs = await session.jobs.list(project_id=project)
    assert len(jobs) == 1


async def test_an_operator_may_export_any_project(gateway: Gateway, project: str) -> None:
    """The operator's role needs no project in the token."""
    answer = await gateway.export({"project_id": project}, token=operator_token())

    assert answer.status == 202


async def test_a_bad_token_is_told_before_a_bad_body_and_a_bad_body_before_a_foreign_project(
    gateway: Gateway,
) -> None:
    """The order of checks: 401, then 400, then 403."""
    worst = await gateway.call("POST", EXPORT, data=b"{", headers=bearer("bad"))
    bad = await gateway.export({"project_id": "another-project", "format": 1}, token=token_for("acme"))
    foreign = await gateway.export({"project_id": "another-project"}, token=token_for("acme"))

    assert [worst.status, bad.status, foreign.status] == [401, 400, 403]


async def test_over_the_limit_everything_else_is_left_unchecked(plane_url: str, project: str) -> None:
    """The third request within a minute is 429, whatever is wrong with it; reading jobs is not limited."""
    async with gateway_on(plane_url, PGFERRY_RATE_LIMIT="2") as gateway:
        accepted = await gateway.export({"project_id": project})
        refused = await gateway.call("POST", EXPORT, data=b"{")
        limited = await gateway.call("POST", EXPORT, data=b"{", headers={"X-Forwarded-For": "203.0.113.9"})
        job = await gateway.job(accepted.data["job_id"], token_for(project))

    assert [accepted.status, refused.status, limited.status, job.status] == [202, 401, 429, 200]
    assert limited.error["code"] == "rate_limited"
    assert 1 <= int(limited.headers["Retry-After"]) <= 60


async def test_behind_a_trusted_proxy_each_client_has_its_own_limit(plane_url: str, project: str) -> None:
    """The rightmost address that is no proxy of ours counts; what the client claims left of it does not."""
    trusted = "127.0.0.0/8, 10.0.0.0/8"
    async with gateway_on(plane_url, PGFERRY_RATE_LIMIT="1", PGFERRY_TRUSTED_PROXIES=trusted) as gateway:
        statuses = [
            (await gateway.export({"project_id": project}, headers={"X-Forwarded-For": chain})).status
            for chain in ("203.0.113.1", "198.51.100.7, 203.0.113.1, 10.1.1.1", "203.0.113.2, 10.1.1.1")
        ]

    assert statuses == [202, 429, 200]


async def test_wrong_addresses_and_methods_have_the_same_shape(gateway: Gateway) -> None:
    """404, and 405 with what is allowed."""
    nowhere = await gateway.call("GET", "/api/backup/nowhere")
    method = await gateway.call("DELETE", EXPORT)

    assert (nowhere.status, nowhere.error["code"]) == (404, "not_found")
    assert (method.status, method.error["code"]) == (405, "method_not_allowed")
    assert method.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("length", "begun"),
    [
        ("Content-Length: 100000000", b""),
        ("Transfer-Encoding: chunked", b"1000\r\n" + b"[" * 4096 + b"\r\n"),
    ],
    ids=["announced", "not announced"],
)
async def test_too_large_a_body_is_refused_before_its_end(
    gateway: Gateway, length: str, begun: bytes
) -> None:
    """By its announced length at once, else after 16 KiB; the client is not waited for."""
    head = (
        f"POST {EXPORT} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token_for('acme')}\r\n{length}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    writer.write(head.encode() + begun * 5)

    async with asyncio.timeout(5):
        status = await reader.readline()

    writer.close()
    assert status.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("given", "kept"), [("Ab-1._", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False)]
)
async def test_a_sane_request_id_is_echoed(gateway: Gateway, given: str, kept: bool) -> None:  # noqa: FBT001
    """Anything else is replaced by a new one."""
    answer = await gateway.call("GET", "/nowhere", headers={"X-Request-ID": given})

    assert (answer.error["request_id"] == given) is kept


async def test_an_inner_error_says_nothing_of_the_inside(postgres_server: PostgresServer) -> None:
    """A table that refuses every row: the client hears 500, the log hears why."""
    async with control_plane(postgres_server) as url, gateway_on(url) as gateway:
        await _refuse_every_row(url)
        with structlog.testing.capture_logs() as logged:
            answer = await gateway.export({"project_id": "acme"})

    assert (answer.status, answer.error["code"], answer.error["details"]) == (500, "internal_error", [])
    assert "control_plane" not in answer.text
    assert "relation" not in answer.text
    assert answer.headers["Server"] == "pgferry"
    assert [entry["log_level"] for entry in logged if entry.get("exc_info")] == ["error"]


async def _refuse_every_row(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE control_plane.audit_log ADD CHECK (false)")
    await connection.close()


async def test_before_it_is_migrated_a_client_is_told_when_to_come_back(database_url: str) -> None:
    """503; what is missing is for the log."""
    async with gateway_on(database_url) as gateway:
        answer = await gateway.export({"project_id": "acme"})

    assert (answer.status, answer.error["code"]) == (503, "database_not_migrated")
    assert "control_plane" not in answer.text
    assert "relation" not in answer.text


async def test_without_postgresql_a_client_is_told_when_to_come_back() -> None:
    """503 with Retry-After, not 500; a bad token is still a bad token."""
    async with gateway_on("postgresql://nobody@127.0.0.1:1/nothing") as gateway:
        export = await gateway.export({"project_id": "acme"})
        job = await gateway.job(uuid4(), token_for("acme"))
        nobodys = await gateway.export({"project_id": "acme"}, token="bad")

    for answer in (export, job):
        assert (answer.status, answer.error["code"]) == (503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert nobodys.status == 401


async def test_an_actor_without_a_subject_is_named_by_its_project(gateway: Gateway, project: str) -> None:
    """`sub` is optional."""
    claims = good_claims(project)
    del claims["sub"]
    answer = await gateway.export(
        {"project_id": project}, token=jwt.encode(claims, SECRET, algorithm="HS256")
    )

    async with gateway.database.session() as session:
        actor = await session.executor.fetchval(
            "SELECT actor FROM control_plane.audit_log WHERE job_id = $1", UUID(str(answer.data["job_id"]))
        )
    assert actor == f"project:{project}"
