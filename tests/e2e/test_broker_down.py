"""What goes on without the broker, and what its death costs."""

import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import asyncpg
import pytest
from aio_pika.abc import AbstractChannel

from sandbox.rabbitmq import RabbitMqServer
from sandbox.stack import Stack
from sandbox.tenants import create_small_tenant
from shared.contracts.topology import EVENTS
from shared.messaging.connection import connected
from shared.messaging.declare import declare
from tests.e2e import steps
from tests.e2e.steps import QUICK

_QUEUE = "listener"
#: A quorum queue that is younger may come back without its messages (RabbitMQ 3.10).
_SETTLING_SECONDS = 3.5
_ADD_ROW = """
    INSERT INTO control_plane.outbox (id, exchange, routing_key, message_type, body)
    VALUES ($1, $2, 'listener', 'test', '{}')
"""


@pytest.fixture
def own_broker() -> Iterator[RabbitMqServer]:
    """A broker that may be killed."""
    with RabbitMqServer() as server:
        yield server


@pytest.fixture
def vhost_url(own_broker: RabbitMqServer) -> str:
    return own_broker.url()


async def test_the_broker_is_killed_and_nothing_is_lost(
    stack: Stack, connection: asyncpg.Connection, own_broker: RabbitMqServer
) -> None:
    """Killed with -9 while rows leave. Without it a POST is accepted and its job is done; when it is back
    all that waited arrives, at least once.
    """
    async with connected(own_broker.url(), name="test") as broker:
        await declare(broker)
        await _listen(await broker.channel())
    listening_since = time.monotonic()
    await create_small_tenant(connection, slug="a", rows=10)
    await stack.add_project(connection, "project-a", slug="a")
    services = [stack.start(name, **QUICK) for name in ("gateway", "exporter", "uploader")]
    for service in services:
        service.wait_ready()

    async def settled() -> bool:
        return time.monotonic() > listening_since + _SETTLING_SECONDS

    await steps.until(settled, "the queue may survive")
    ids = [uuid4() for _ in range(200)]
    await connection.executemany(_ADD_ROW, [(row, EVENTS) for row in ids[:150]])

    async def some_sent() -> bool:
        return await _unsent(connection) < 150

    await steps.until(some_sent, "rows leave")
    own_broker.kill()
    try:
        await connection.executemany(_ADD_ROW, [(row, EVENTS) for row in ids[150:]])
        job_id = steps.post_export(stack, "project-a")
        row = await steps.ended(connection, job_id)
        unsent = await _unsent(connection)
        ready = [service.get("/readyz")[0] for service in services]
        connections = services[1].get("/metrics")[1]
    finally:
        own_broker.start()
    await steps.all_sent(connection)

    assert row["status"] == "completed"
    assert unsent >= 50 + 3
    assert ready == [200, 200, 200]
    assert 'pgferry_amqp_connected{connection="consumer"} 0.0' in connections
    async with connected(own_broker.url(), name="test") as broker:
        assert await _drained(await broker.channel()) == set(ids)


async def _unsent(connection: asyncpg.Connection) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NULL")
    return count


async def _listen(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue(_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(EVENTS, _QUEUE)


async def _drained(channel: AbstractChannel) -> set[UUID]:
    """The ids of all messages that wait in the listener's queue."""
    queue = await channel.get_queue(_QUEUE)
    found: set[UUID] = set()
    while message := await queue.get(fail=False):
        await message.ack()
        found.add(UUID(message.message_id))
    return found
