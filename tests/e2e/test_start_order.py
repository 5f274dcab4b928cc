"""Services that start before everything else: each says what it waits for, and begins when it is there."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import asyncpg
import pytest

from sandbox.bot_api.process import BotApi
from sandbox.postgres import PostgresServer
from sandbox.process import wait_until
from sandbox.rabbitmq import RabbitMqServer
from sandbox.stack import Service, Stack, make_roles
from sandbox.tenants import create_small_tenant
from shared.storage.migrate import migrate
from tests.e2e import steps
from tests.e2e.steps import DEADLINE_SECONDS, QUICK


@pytest.fixture
def own_broker() -> Iterator[RabbitMqServer]:
    """A broker that is not started yet."""
    server = RabbitMqServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def vhost_url(own_broker: RabbitMqServer) -> str:
    return own_broker.url()


@pytest.fixture
def control_plane_url(database_url: str) -> str:
    """A database that nobody has migrated."""
    return database_url


@contextmanager
def away(server: PostgresServer | BotApi) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def told(service: Service, event: str = "waiting") -> list[dict[str, str]]:
    """What it has logged of this kind."""
    service.child.require_running()
    lines = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def all_wait(services: Sequence[Service], reason: str, *, missing: str) -> None:
    """Each has said why it waits, and its readiness page names what is missing."""
    for service in services:
        wait_until(
            partial(_waits, service, reason, missing),
            seconds=DEADLINE_SECONDS,
            what=f"{service.name} waits for {missing}: {reason}",
        )
        assert service.get("/healthz")[0] == 200


def _waits(service: Service, reason: str, missing: str) -> bool:
    status, page = service.get("/readyz")
    said = any(reason in entry["reason"] for entry in told(service))
    return said and status == 503 and not json.loads(page)["checks"][missing]


async def test_services_start_before_all_servers(
    stack: Stack,
    postgres_server: PostgresServer,
    own_broker: RabbitMqServer,
    bot_api: BotApi,
    role_passwords: dict[str, str],
    control_plane_template: str,
) -> None:
    """PostgreSQL, its control plane, the spool, Telegram, the broker: each is waited for, and told once."""
    stack.spool.write_text("in the way")
    with away(bot_api):
        with away(postgres_server):
            services = [stack.start(name, **QUICK) for name in ("gateway", "exporter", "uploader")]
            gateway, exporter, uploader = services
            all_wait([gateway], "PostgreSQL is not reachable", missing="database")
            all_wait([exporter, uploader], "the folder cannot be made", missing="spool")
            stack.spool.unlink()
            all_wait([exporter, uploader], "PostgreSQL is not reachable", missing="database")
        all_wait(services, "run: pgferry migrate", missing="database")

        connection = await asyncpg.connect(stack.database_url)
        await migrate(connection)
        await make_roles(connection, role_passwords)
        gateway.wait_ready()
        exporter.wait_ready()
        all_wait([uploader], "Telegram is not reachable", missing="telegram")
    uploader.wait_ready()

    await create_small_tenant(connection, slug="a", rows=10)
    await stack.add_project(connection, "project-a", slug="a")
    job_id = steps.post_export(stack, "project-a")
    assert (await steps.ended(connection, job_id))["status"] == "completed"
    assert json.loads(gateway.get("/readyz")[1])["checks"]["broker"] is False

    own_broker.start()
    await steps.all_sent(connection)
    for service in services:
        if service is not gateway:
            steps.wait_consuming(service)
        outages = Counter((entry["dependency"], entry["reason"]) for entry in told(service))
        assert max(outages.values()) == 1, outages
        assert told(service, "no longer waiting")
        assert service.stop() == 0
    await connection.close()


def _says_so(service: Service) -> bool:
    return bool(told(service))


def test_a_service_that_still_waits_is_stopped_at_once(stack: Stack) -> None:
    """It does not finish waiting first: nobody listens where its database should be."""
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    services = [stack.start(name, **nowhere) for name in ("gateway", "exporter", "uploader")]
    for service in services:
        wait_until(partial(_says_so, service), seconds=DEADLINE_SECONDS, what="it waits")

    for service in services:
        assert service.stop() == 0
        assert "Traceback" not in service.log()
