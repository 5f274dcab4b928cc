"""What goes on without the broker."""

from collections.abc import Iterator

import asyncpg
import pytest

from sandbox.rabbitmq import RabbitMqServer
from sandbox.stack import Stack
from sandbox.tenants import create_small_tenant
from tests.e2e import steps
from tests.e2e.steps import QUICK


@pytest.fixture(scope="module")
def own_broker() -> Iterator[RabbitMqServer]:
    """A broker that may be stopped."""
    with RabbitMqServer() as server:
        yield server


@pytest.fixture
def vhost_url(own_broker: RabbitMqServer) -> str:
    return own_broker.url()


async def test_a_post_is_accepted_while_the_broker_is_down(
    stack: Stack, connection: asyncpg.Connection, own_broker: RabbitMqServer
) -> None:
    """The job is done without the broker, and its messages leave when the broker is back."""
    await create_small_tenant(connection, slug="a", rows=10)
    await stack.add_project(connection, "project-a", slug="a")
    services = [stack.start(name, **QUICK) for name in ("gateway", "exporter", "uploader")]
    for service in services:
        service.wait_ready()

    own_broker.stop()
    try:
        job_id = steps.post_export(stack, "project-a")
        row = await steps.ended(connection, job_id)
        unsent = await connection.fetchval("SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NULL")
    finally:
        own_broker.start()
    await steps.all_sent(connection)

    assert row["status"] == "completed"
    assert unsent == 3
    for service in services:
        service.wait_ready()
