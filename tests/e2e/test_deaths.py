"""Workers that die or freeze in the middle: the job is finished by another, and nothing is left over."""

import os
import signal
from uuid import UUID

import asyncpg
import pytest

from sandbox.bot_api.process import BotApi
from sandbox.process import alive, wait_until
from sandbox.stack import Stack
from sandbox.tenants import create_demo_tenant
from shared.storage.database import Database
from tests.e2e import steps
from tests.e2e.steps import QUICK

SMALL_PARTS = {"PGFERRY_PART_SIZE_BYTES": 512 * 1024}


@pytest.fixture
async def tenant(stack: Stack, connection: asyncpg.Connection) -> str:
    """A project whose dump takes long enough to be caught in the middle."""
    await create_demo_tenant(connection, slug="acme-corp", megabytes=10)
    await stack.add_project(connection, "acme", slug="acme-corp")
    return "acme"


async def test_an_exporter_killed_in_the_middle_of_a_dump_is_succeeded(
    stack: Stack, connection: asyncpg.Connection, control_plane: Database, tenant: str, database_url: str
) -> None:
    """After kill -9 pg_dump dies with it, the lease lapses, the next exporter begins again and finishes."""
    victim = stack.start("exporter", **QUICK).wait_ready()
    uploader = stack.start("uploader", **QUICK)
    job_id, pg_dump = await steps.caught_dumping(stack, victim, control_plane, tenant)
    assert (await steps.job_row(connection, job_id))["stage"] == "dumping"

    victim.kill()
    wait_until(lambda: not alive(pg_dump), seconds=10, what="pg_dump died with its exporter")
    stack.start("exporter", **QUICK).wait_ready()
    uploader.wait_ready()
    row = await steps.ended(connection, job_id)

    assert row["status"] == "completed"
    assert (row["dump_attempts"], row["dump_fence"]) == (2, 2)
    comparison = await steps.restored(
        stack, row["backup_id"], schema="tenant_acme-corp", empty_url=database_url
    )
    assert comparison.differences == ()
    await steps.require_nothing_left(stack, connection, job_id)


async def test_an_uploader_killed_between_two_parts_is_succeeded(
    stack: Stack,
    bot_api: BotApi,
    connection: asyncpg.Connection,
    control_plane: Database,
    tenant: str,
    database_url: str,
) -> None:
    """After kill -9 the successor goes on at the first unsent part, and no document is in the chat twice."""
    stack.start("exporter", **QUICK, **SMALL_PARTS)
    bot_api.hold_after("sendDocument", 2)
    victim = stack.start("uploader", **QUICK)
    job_id = await steps.ask(control_plane, tenant)
    wait_until(lambda: bot_api.held("sendDocument") == 1, seconds=60, what="the third document is on its way")

    victim.kill()
    bot_api.release()
    stack.start("uploader", **QUICK)
    row = await steps.ended(connection, job_id)

    assert row["status"] == "completed"
    assert (row["dump_attempts"], row["upload_attempts"]) == (1, 2)
    names = [message.file_name for message in bot_api.messages(stack.chat_id)]
    assert len(names) == len(set(names))
    assert len(names) == await _parts(connection, job_id) + 1
    comparison = await steps.restored(
        stack, row["backup_id"], schema="tenant_acme-corp", empty_url=database_url
    )
    assert comparison.differences == ()
    await steps.require_nothing_left(stack, connection, job_id)


async def test_an_exporter_that_wakes_after_its_successor_finished_changes_nothing(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, control_plane: Database, tenant: str
) -> None:
    """SIGSTOP past the lease, then SIGCONT: the sleeper finds its fence gone and cleans up after itself."""
    sleeper = stack.start("exporter", **QUICK).wait_ready()
    job_id, pg_dump = await steps.caught_dumping(stack, sleeper, control_plane, tenant)
    sleeper.pause()
    os.kill(pg_dump, signal.SIGCONT)
    stack.start("uploader", **QUICK)
    successor = stack.start("exporter", **QUICK)
    row = await steps.ended(connection, job_id)
    assert row["status"] == "completed"
    assert row["dump_fence"] > 1
    successor.wait_ready()
    await steps.all_sent(connection)
    assert await steps.sessions_of(connection, job_id, fence=1) == 0
    wait_until(lambda: not (stack.spool / str(job_id)).exists(), seconds=30, what="the spool is emptied")
    before = await _everything(stack, bot_api, connection)

    sleeper.resume()
    wait_until(lambda: "lease is lost" in sleeper.log(), seconds=30, what="the sleeper has noticed")

    assert await _everything(stack, bot_api, connection) == before
    await steps.require_nothing_left(stack, connection, job_id)


async def test_an_exporter_told_to_stop_hands_its_job_back(
    stack: Stack, connection: asyncpg.Connection, control_plane: Database, tenant: str
) -> None:
    """SIGTERM: what cannot end within the drain time goes back without cost, and the process exits with 0."""
    exporter = stack.start("exporter", **QUICK, PGFERRY_DRAIN_SECONDS=0.5).wait_ready()
    job_id, pg_dump = await steps.caught_dumping(stack, exporter, control_plane, tenant)

    assert exporter.stop() == 0

    assert not alive(pg_dump)
    row = await steps.job_row(connection, job_id)
    assert (row["status"], row["stage"], row["dump_attempts"]) == ("running", "queued", 0)
    assert [path.name for path in stack.spool.iterdir()] == [".pgferry-spool"]


async def _parts(connection: asyncpg.Connection, job_id: UUID) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM control_plane.backup_parts WHERE job_id = $1 AND kind = 'part'", job_id
    )
    return count


async def _everything(stack: Stack, bot_api: BotApi, connection: asyncpg.Connection) -> object:
    """All that a late worker could change."""
    tables = ("jobs", "backups", "backup_parts", "outbox", "audit_log")
    rows = [
        [tuple(row) for row in await connection.fetch(f"SELECT * FROM control_plane.{table} ORDER BY 1")]
        for table in tables
    ]
    return rows, bot_api.messages(stack.chat_id), sorted(stack.spool.rglob("*"))
