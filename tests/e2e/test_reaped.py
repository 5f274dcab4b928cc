"""An exporter dies and no other is there: whichever service runs sets its job right."""

import asyncpg
import pytest

from sandbox.process import alive, wait_until
from sandbox.stack import Stack
from sandbox.tenants import create_demo_tenant
from shared.contracts.topology import DEAD_EXPORTER
from shared.messaging.connection import connected
from shared.storage.cancel import cancel
from shared.storage.database import Database
from shared.storage.spool import MARKER
from tests.e2e import steps
from tests.e2e.steps import QUICK

SOON = {**QUICK, "PGFERRY_RECONCILE_SECONDS": 1}


@pytest.fixture
async def tenant(stack: Stack, connection: asyncpg.Connection) -> str:
    await create_demo_tenant(connection, slug="acme-corp", megabytes=1)
    await stack.add_project(connection, "acme", slug="acme-corp")
    return "acme"


async def test_the_job_of_a_killed_exporter_waits_for_the_next(
    stack: Stack, connection: asyncpg.Connection, control_plane: Database, tenant: str
) -> None:
    """A gateway alone puts it back, its attempt spent; what it dumped goes with the next sweep."""
    stack.start("gateway", **SOON)
    victim = stack.start("exporter", **QUICK).wait_ready()
    job_id, pg_dump = await steps.caught_dumping(stack, victim, control_plane, tenant)

    victim.kill()
    wait_until(lambda: not alive(pg_dump), seconds=10, what="pg_dump died with its exporter")

    async def put_back() -> bool:
        stage: str = (await steps.job_row(connection, job_id))["stage"]
        return stage == "queued"

    await steps.until(put_back, "the job is put back")
    row = await steps.job_row(connection, job_id)
    assert (row["status"], row["dump_attempts"], row["fence"]) == ("running", 1, 2)
    assert (row["lease_until"], row["owner"]) == (None, None)

    assert [path.name for path in stack.spool.glob("*/*")] == ["1"]
    await cancel(control_plane, job_id, actor="test")
    exporter = stack.start("exporter", **SOON)

    def swept() -> bool:
        return [path.name for path in stack.spool.iterdir()] == [MARKER]

    wait_until(swept, seconds=60, what="the spool is swept")
    done = 'pgferry_reconciled_total{duty="spool",kind="folders"} 1.0'
    wait_until(lambda: done in exporter.get("/metrics")[1], seconds=60, what="that is counted")


async def test_the_last_attempt_of_a_killed_exporter_is_a_dead_letter(
    stack: Stack, connection: asyncpg.Connection, control_plane: Database, vhost_url: str, tenant: str
) -> None:
    """An uploader alone gives the job up, and its command is in the exporter's queue of dead letters."""
    victim = steps.wait_consuming(stack.start("exporter", **QUICK, PGFERRY_ATTEMPTS=1))
    job_id, _pg_dump = await steps.caught_dumping(stack, victim, control_plane, tenant)
    victim.kill()

    stack.start("uploader", **SOON, PGFERRY_ATTEMPTS=1)
    row = await steps.ended(connection, job_id)
    await steps.all_sent(connection)

    assert (row["status"], row["error_code"], row["dump_attempts"]) == ("failed", "attempts_exhausted", 1)
    async with connected(vhost_url, name="test") as broker:
        channel = await broker.channel()
        letter = await (await channel.get_queue(DEAD_EXPORTER.name, ensure=False)).get()
        assert letter is not None
        await letter.ack()
    assert (letter.headers["x-job-id"], letter.headers["x-reason"]) == (str(job_id), "attempts_exhausted")
    assert letter.body == row["command"]
