"""What SIGTERM and a second one do to work in hand; everything ends with 0, soon, and costs no attempt."""

import asyncio
import json
import signal
import time
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from sandbox.bot_api.process import BotApi
from sandbox.postgres import PostgresServer
from sandbox.process import alive, wait_until
from sandbox.stack import Service, Stack, http_post
from sandbox.tenants import create_demo_tenant, create_small_tenant
from shared.storage.database import Database
from tests.e2e import steps
from tests.e2e.steps import DEADLINE_SECONDS, QUICK

#: More than any test waits: who still ends was not waiting for it.
LONG_DRAIN = {"PGFERRY_DRAIN_SECONDS": 3600}


@pytest.fixture
async def job_id(stack: Stack, connection: asyncpg.Connection, control_plane: Database) -> UUID:
    """A job whose dump waits for an uploader; its exporter was idle when it was stopped."""
    await create_small_tenant(connection, slug="a", rows=10)
    await stack.add_project(connection, "project-a", slug="a")
    job_id = await steps.ask(control_plane, "project-a")
    exporter = stack.start("exporter", **QUICK, **LONG_DRAIN)

    async def dumped() -> bool:
        return bool((await steps.job_row(connection, job_id))["stage"] == "dumped")

    await steps.until(dumped, "the dump is there")
    assert exporter.stop() == 0
    return job_id


def checks(service: Service) -> dict[str, bool]:
    """Of its readiness page; empty while nobody answers."""
    page: dict[str, dict[str, bool]] = json.loads(service.get("/readyz")[1] or "{}")
    return page.get("checks", {})


def holding(bot_api: BotApi, uploader: Service) -> Service:
    """Return when its document is on the way, and does not arrive."""

    def is_held() -> bool:
        uploader.child.require_running()
        return bot_api.held("sendDocument") == 1

    wait_until(is_held, seconds=DEADLINE_SECONDS, what="a document is on its way")
    return uploader


async def handed_back(connection: asyncpg.Connection, job_id: UUID) -> None:
    row = await steps.job_row(connection, job_id)
    assert (row["status"], row["stage"], row["upload_attempts"]) == ("running", "dumped", 0)
    assert (row["lease_until"], row["owner"]) == (None, None)


async def test_an_uploader_hands_back_whatever_it_does(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, job_id: UUID
) -> None:
    """In the middle of a send when a second signal comes, and while it waits for a Telegram that is away."""
    bot_api.hold_after("sendDocument", 0)
    uploader = holding(bot_api, stack.start("uploader", **QUICK, **LONG_DRAIN))
    uploader.child.process.send_signal(signal.SIGTERM)
    wait_until(lambda: checks(uploader).get("accepting") is False, seconds=DEADLINE_SECONDS, what="it drains")
    assert (await steps.job_row(connection, job_id))["owner"] is not None
    assert uploader.stop() == 0
    await handed_back(connection, job_id)

    uploader = holding(bot_api, stack.start("uploader", **QUICK, **LONG_DRAIN))
    bot_api.kill()
    wait_until(partial(_waits_for_telegram, uploader), seconds=DEADLINE_SECONDS, what="the uploader pauses")
    try:
        assert uploader.stop() == 0
    finally:
        bot_api.start()
    row = await steps.job_row(connection, job_id)
    assert (row["stage"], row["owner"]) == ("dumped", None)

    stack.start("uploader", **QUICK)
    assert (await steps.ended(connection, job_id))["status"] == "completed"
    await steps.require_nothing_left(stack, connection, job_id)


def _waits_for_telegram(uploader: Service) -> bool:
    """Its page and its metric say so, and the job was handed back before."""
    paused: bool = 'pgferry_dependency_missing{dependency="telegram"} 1.0' in uploader.get("/metrics")[1]
    return paused and not checks(uploader)["telegram"]


async def test_a_worker_ends_without_its_database(
    stack: Stack,
    bot_api: BotApi,
    postgres_server: PostgresServer,
    control_plane_url: str,
    job_id: UUID,
) -> None:
    """It cannot hand anything back: the lease will say it. The drain and a few seconds, then exit code 0."""
    bot_api.hold_after("sendDocument", 0)
    uploader = holding(bot_api, stack.start("uploader", **QUICK, PGFERRY_DRAIN_SECONDS=0.5))
    postgres_server.stop("immediate")
    try:
        begin = time.monotonic()
        code = uploader.stop()
        seconds = time.monotonic() - begin
    finally:
        postgres_server.start()
        bot_api.release()
    assert code == 0
    assert seconds < 30

    stack.start("uploader", **QUICK)
    connection = await asyncpg.connect(control_plane_url)
    assert (await steps.ended(connection, job_id))["status"] == "completed"
    await connection.close()


async def test_a_second_signal_ends_a_dump_at_once(
    stack: Stack, connection: asyncpg.Connection, control_plane: Database
) -> None:
    """Its pg_dump is gone, its files, too, and the job is handed back."""
    await create_demo_tenant(connection, slug="acme-corp", megabytes=10)
    await stack.add_project(connection, "acme", slug="acme-corp")
    exporter = stack.start("exporter", **QUICK, **LONG_DRAIN).wait_ready()
    job_id, pg_dump = await steps.caught_dumping(stack, exporter, control_plane, "acme")
    exporter.child.process.send_signal(signal.SIGTERM)
    wait_until(lambda: checks(exporter).get("accepting") is False, seconds=DEADLINE_SECONDS, what="it drains")
    assert alive(pg_dump)

    assert exporter.stop() == 0

    assert not alive(pg_dump)
    row = await steps.job_row(connection, job_id)
    assert (row["status"], row["stage"], row["dump_attempts"]) == ("running", "queued", 0)
    assert [path.name for path in stack.spool.iterdir()] == [".pgferry-spool"]


async def test_a_gateway_finishes_the_requests_in_hand(stack: Stack, connection: asyncpg.Connection) -> None:
    """And takes no new one meanwhile."""
    await create_small_tenant(connection, slug="a", rows=1)
    await stack.add_project(connection, "project-a", slug="a")
    gateway = stack.start("gateway", **QUICK).wait_ready()
    async with connection.transaction():
        await connection.execute("LOCK TABLE control_plane.jobs IN EXCLUSIVE MODE")
        asking = asyncio.create_task(asyncio.to_thread(steps.post_export, stack, "project-a"))
        await steps.until(partial(_waits_for_lock, connection), "the request is in hand")
        gateway.child.process.send_signal(signal.SIGTERM)
        wait_until(
            lambda: http_post(f"{stack.gateway_url}/api/backup/export", {}, {})[0] == 0,
            seconds=DEADLINE_SECONDS,
            what="it listens no more",
        )
        assert gateway.child.running

    job_id = await asking

    assert gateway.child.process.wait(DEADLINE_SECONDS) == 0
    assert (await steps.job_row(connection, job_id))["status"] == "pending"


async def _waits_for_lock(connection: asyncpg.Connection) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'control_plane.jobs'::regclass"
    return bool(await connection.fetchval(waiting))
