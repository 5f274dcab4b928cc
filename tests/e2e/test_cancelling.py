"""Cancelling what a worker is busy with: it stops within seconds, and leaves nothing behind."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from sandbox.bot_api.process import BotApi
from sandbox.process import alive, wait_until
from sandbox.stack import Service, Stack
from sandbox.tenants import create_demo_tenant
from shared.storage.cancel import Way, cancel
from shared.storage.database import Database
from tests.e2e import steps
from tests.e2e.commands import ended, pgferry, started
from tests.e2e.steps import QUICK

#: From the request to the end; the aim is 2 s, machines are noisy.
DEADLINE_SECONDS = 10.0

#: Heartbeats too far apart to be what stops the work.
SLOW_HEART = {"PGFERRY_POLL_SECONDS": 0.3}


@pytest.fixture
async def tenant(stack: Stack, connection: asyncpg.Connection) -> str:
    """A project whose dump takes long enough to be caught in the middle."""
    await create_demo_tenant(connection, slug="acme-corp", megabytes=10)
    await stack.add_project(connection, "acme", slug="acme-corp")
    return "acme"


def files(stack: Stack) -> list[str]:
    return [path.name for path in stack.spool.iterdir()]


async def test_a_dump_that_hangs_is_cancelled(
    stack: Stack, connection: asyncpg.Connection, tenant: str
) -> None:
    """Its pg_dump is frozen; process, server sessions and files are gone before the job is cancelled."""
    exporter = stack.start("exporter", **SLOW_HEART).wait_ready()
    async with steps.dumps_held(stack.database_url):
        asking = asyncio.create_task(started("export", tenant, "--wait", DATABASE_URL=stack.database_url))
        pg_dump = await steps.frozen_pg_dump(exporter)
    job_id = await connection.fetchval("SELECT id FROM control_plane.jobs")

    said = await pgferry("jobs", "cancel", str(job_id), "--wait", DATABASE_URL=stack.database_url)
    asker = await ended(await asking, {})

    assert (said.code, said.out) == (0, f"cancelled {job_id} of project acme by its worker\n"), said.err
    assert not alive(pg_dump)
    assert files(stack) == [".pgferry-spool"]
    await _server_lets_go(connection, job_id)
    row = await steps.job_row(connection, job_id)
    assert (row["status"], row["stage"], row["error_code"]) == ("cancelled", "dumping", "cancelled")
    assert (row["finished_at"] - row["cancel_requested_at"]).total_seconds() < DEADLINE_SECONDS
    assert asker.code == 1
    assert asker.err.splitlines()[-1] == f"pgferry: job {job_id} was cancelled"


async def _server_lets_go(connection: asyncpg.Connection, job_id: UUID) -> None:
    """The server sees a closed connection a moment later."""

    async def gone() -> bool:
        return await steps.sessions_of(connection, job_id) == 0

    await steps.until(gone, "the job's server sessions are gone")


async def test_an_upload_is_cancelled_in_the_middle_of_a_part(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, control_plane: Database, tenant: str
) -> None:
    """No further call is made, what is in the chat is to be deleted, and the spool is empty."""
    stack.start("exporter", **QUICK, PGFERRY_PART_SIZE_BYTES=512 * 1024)
    bot_api.hold_after("sendDocument", 2)
    uploader = stack.start("uploader", **SLOW_HEART)
    job_id = await steps.ask(control_plane, tenant)
    wait_until(lambda: bot_api.held("sendDocument") == 1, seconds=60, what="the third document is on its way")

    said = await pgferry("jobs", "cancel", str(job_id), "--wait", DATABASE_URL=stack.database_url)
    row = await steps.job_row(connection, job_id)
    wait_until(lambda: files(stack) == [".pgferry-spool"], seconds=10, what="the dump is removed")
    bot_api.release()

    assert said.code == 0, said.err
    assert (row["status"], row["stage"]) == ("cancelled", "uploading")
    assert (row["finished_at"] - row["cancel_requested_at"]).total_seconds() < DEADLINE_SECONDS
    statuses = await connection.fetch("SELECT DISTINCT status FROM control_plane.backup_parts")
    assert [record["status"] for record in statuses] == ["superseded"]
    assert uploader.stop() == 0
    assert len(bot_api.messages(stack.chat_id)) <= 3


async def test_a_worker_killed_after_the_request_does_not_make_the_job_run_again(
    stack: Stack, connection: asyncpg.Connection, control_plane: Database, tenant: str
) -> None:
    """Nobody claims it when its lease has lapsed; whoever asks again ends it, and the project is free."""
    victim = stack.start("exporter", **QUICK).wait_ready()
    job_id, pg_dump = await steps.caught_dumping(stack, victim, control_plane, tenant)
    victim.pause()
    told = await cancel(control_plane, job_id, actor="test")  # in time: a command starts slower than a lease
    victim.kill()
    wait_until(lambda: not alive(pg_dump), seconds=10, what="pg_dump died with its exporter")
    successor = stack.start("exporter", **QUICK).wait_ready()
    again = await steps.ask(control_plane, tenant)

    said = await pgferry("jobs", "cancel", str(job_id), "--wait", DATABASE_URL=stack.database_url)
    await _dumped(connection, again)

    assert told is not None
    assert told.way is Way.ASKED
    assert (said.code, said.out) == (0, f"cancelled {job_id} of project acme\n")
    row = await steps.job_row(connection, job_id)
    assert (row["status"], row["dump_attempts"], row["fence"]) == ("cancelled", 1, 2)
    assert str(job_id) not in _begun(successor)


async def _dumped(connection: asyncpg.Connection, job_id: UUID) -> None:
    async def is_dumped() -> bool:
        stage: str = (await steps.job_row(connection, job_id))["stage"]
        return stage == "dumped"

    await steps.until(is_dumped, "the project's next job is dumped")


def _begun(exporter: Service) -> str:
    return "".join(line for line in exporter.log().splitlines() if "attempt begins" in line)
