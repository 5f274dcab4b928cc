"""What the API shows of a job, and to whom."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from sandbox.postgres import PostgresServer
from shared.contracts.job import StageGroup
from shared.contracts.manifest import Dump, Part, Stream
from tests.integration.gateway_api import (
    Gateway,
    control_plane,
    gateway_on,
    operator_token,
    token_for,
)


@pytest_asyncio.fixture(scope="module")
async def gateway(postgres_server: PostgresServer) -> AsyncIterator[Gateway]:
    """One for all tests here; each uses a project of its own."""
    async with control_plane(postgres_server) as url, gateway_on(url) as gateway:
        yield gateway


@pytest.fixture
def project() -> str:
    return f"project-{uuid4().hex[:8]}"


async def test_a_job_shows_its_options_and_that_nothing_has_happened(gateway: Gateway, project: str) -> None:
    """What was asked for is echoed; what is not there yet is null."""
    options = {
        "format": "tar",
        "compression": "none",
        "filename": "acme.2026",
        "caption": "Tschüß, 世界 👋",
        "storage_path": "invoices/2026",
        "expires_in_days": 3650,
    }
    body = {"project_id": project, "priority": "high", "notify_email": "a@example.com", **options}
    accepted = await gateway.export(body)

    job = (await gateway.job(accepted.data["job_id"], token_for(project))).data

    assert job == {
        "job_id": accepted.data["job_id"],
        "project_id": project,
        "status": "pending",
        "stage": "queued",
        "priority": "high",
        "progress": None,
        "attempts": {"dump": 0, "upload": 0},
        "options": options,
        "created_at": accepted.data["created_at"],
        "started_at": None,
        "dumped_at": None,
        "finished_at": None,
        "error": None,
        "result": None,
        "backup": None,
    }


async def test_the_defaults_are_sql_zstd_and_normal(gateway: Gateway, project: str) -> None:
    """A project's id alone is enough."""
    accepted = await gateway.export({"project_id": project})

    job = (await gateway.job(accepted.data["job_id"], token_for(project))).data

    assert job["priority"] == "normal"
    assert job["options"] == {
        "format": "sql",
        "compression": "zstd",
        "filename": None,
        "caption": None,
        "storage_path": None,
        "expires_in_days": None,
    }


async def test_a_running_job_shows_its_progress_and_a_dumped_one_its_result(
    gateway: Gateway, project: str
) -> None:
    """Stage, attempts, timestamps and, once dumped, sizes and counts."""
    accepted = await gateway.export({"project_id": project, "priority": "high"})
    job_id = accepted.data["job_id"]
    async with gateway.database.session() as session:
        claim = await session.jobs.claim(StageGroup.DUMP, owner="test", lease_seconds=60)
        while claim is not None and str(claim.job_id) != job_id:
            claim = await session.jobs.claim(StageGroup.DUMP, owner="test", lease_seconds=60)
        assert claim is not None
        await session.jobs.renew(claim, progress={"dumped_bytes": 4096})
    running = (await gateway.job(job_id, token_for(project))).data
    async with gateway.database.session() as session:
        await session.jobs.dumped(claim, _dump(project, claim.job_id, claim.fence))
    dumped = (await gateway.job(job_id, token_for(project))).data

    assert (running["status"], running["stage"]) == ("running", "dumping")
    assert running["progress"] == {"dumped_bytes": 4096}
    assert running["attempts"] == {"dump": 1, "upload": 0}
    assert str(running["started_at"]).endswith("Z")
    assert running["result"] is None
    assert (dumped["status"], dumped["stage"], dumped["progress"]) == ("running", "dumped", None)
    assert str(dumped["dumped_at"]).endswith("Z")
    assert dumped["result"] == {
        "bytes": 1000,
        "stored_bytes": 300,
        "sha256": "b" * 64,
        "tables": 4,
        "rows": 50,
        "server_version": "15.18",
        "client_version": "15.18",
        "warnings": {"extension_needed": 2},
        "duration_seconds": 1.5,
    }


def _dump(project: str, job_id: UUID, fence: int) -> Dump:
    return Dump(
        job_id=job_id,
        dump_fence=fence,
        project_id=project,
        schema_name="tenant_x",
        format="sql",
        compression="zstd",
        encryption=None,
        snapshot_at=datetime.now(UTC),
        duration_seconds=1.5,
        server_version="15.18",
        client_version="15.18",
        warnings={"extension_needed": 2},
        plain=Stream(size_bytes=1000, sha256="a" * 64),
        stored=Stream(size_bytes=300, sha256="b" * 64),
        tables=4,
        rows=50,
        facts="{}",
        parts=(Part(index=0, size_bytes=300, sha256="b" * 64),),
    )


async def test_a_cancelled_job_is_not_to_be_polled_again(gateway: Gateway, project: str) -> None:
    """Retry-After is there only while something may still happen."""
    accepted = await gateway.export({"project_id": project})
    async with gateway.database.session() as session:
        await session.cancellations.unheld(UUID(str(accepted.data["job_id"])))

    job = await gateway.job(accepted.data["job_id"], token_for(project))

    assert job.data["status"] == "cancelled"
    assert str(job.data["finished_at"]).endswith("Z")
    assert "Retry-After" not in job.headers


async def test_only_its_project_and_operators_see_a_job(gateway: Gateway, project: str) -> None:
    """Another project's job cannot be told from one that does not exist."""
    job_id = (await gateway.export({"project_id": project})).data["job_id"]

    others = await gateway.job(job_id, token_for("another-project"))
    unknown = await gateway.job(uuid4(), token_for(project))
    malformed = await gateway.job("1' OR '1'='1", token_for(project))
    operators = await gateway.job(job_id, operator_token())
    nobodys = await gateway.call("GET", f"/api/backup/jobs/{job_id}")

    for answer in (others, unknown, malformed):
        assert (answer.status, answer.error["code"]) == (404, "job_not_found")
        assert answer.error["message"] == unknown.error["message"]
    assert operators.status == 200
    assert (nobodys.status, nobodys.error["code"]) == (401, "token_missing")
