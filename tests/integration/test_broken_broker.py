"""A broker that is frozen, or takes no more messages: both sides notice, nothing waits for ever."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from uuid import uuid4

import aio_pika
import asyncpg
import pytest

from sandbox.rabbitmq import RabbitMqServer
from shared.contracts.envelope import Delivery
from shared.contracts.errors import Unreadable
from shared.contracts.topology import EXPORTER
from shared.messaging import connection as broker_connection
from shared.messaging import publisher
from shared.messaging.connection import connected
from shared.messaging.consumer import Consumer
from shared.messaging.declare import declare
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.messaging.session import Session
from shared.storage.database import Database
from shared.storage.nudges import OUTBOX
from shared.storage.outbox_session import outbox_of
from tests.waiting import beside, eventually

DEADLINE_SECONDS = 60.0
_ADD_COMMAND = """
    INSERT INTO control_plane.outbox (id, exchange, routing_key, message_type, body)
    VALUES ($1, 'pgferry.commands', 'export.requested.v1', 'export.requested.v1', '{}')
"""
_SENT = "SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NOT NULL"
_IN_DOUBT = "SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NULL AND last_error IS NOT NULL"


@pytest.fixture(scope="module")
def own_broker() -> Iterator[RabbitMqServer]:
    """One that may be frozen; each test leaves it as it was."""
    with RabbitMqServer() as server:
        yield server


@pytest.fixture
def url(own_broker: RabbitMqServer) -> str:
    """A heartbeat each second: a silence of six is the end of a connection."""
    return own_broker.url() + "?heartbeat=1"


@contextmanager
def frozen(server: RabbitMqServer) -> Iterator[None]:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@dataclass(slots=True)
class Carrying:
    """Both sessions of a service, and what came in."""

    publishing: Session
    consuming: Session
    deliveries: list[Delivery]

    async def are(self, *, connected: bool) -> None:
        async def reached() -> bool:
            return {self.publishing.connected, self.consuming.connected} == {connected}

        await eventually(reached, seconds=DEADLINE_SECONDS)

    async def has_taken(self, number: int) -> None:
        async def reached() -> bool:
            return len(self.deliveries) >= number

        await eventually(reached, seconds=DEADLINE_SECONDS)


@asynccontextmanager
async def carrying(url: str, database: Database) -> AsyncIterator[Carrying]:
    deliveries: list[Delivery] = []

    async def keep(delivery: Delivery) -> None:
        deliveries.append(delivery)

    async def never(_delivery: Delivery, error: Unreadable) -> None:
        raise AssertionError(error)

    both = Carrying(
        Session(url, service="test", purpose="publisher"),
        Session(url, service="test", purpose="consumer"),
        deliveries,
    )
    relay = Relay(outbox_of(database), database.nudges.event(OUTBOX))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(beside(both.publishing.run(relay.run)))
        await stack.enter_async_context(beside(both.consuming.run(Consumer(EXPORTER, keep, never).run)))
        yield both


async def reaches(connection: asyncpg.Connection, count: str, number: int) -> None:
    async def reached() -> bool:
        return bool(await connection.fetchval(count) >= number)

    await eventually(reached, seconds=DEADLINE_SECONDS)


async def test_a_frozen_broker_is_noticed_and_used_again(
    own_broker: RabbitMqServer, url: str, control_plane: Database, connection: asyncpg.Connection
) -> None:
    """By publisher and consumer alike, though nothing is published; afterwards messages go both ways."""
    async with carrying(url, control_plane) as both:
        await both.are(connected=True)
        with frozen(own_broker):
            await both.are(connected=False)
        await both.are(connected=True)
        await connection.execute(_ADD_COMMAND, uuid4())
        await both.has_taken(1)
        await reaches(connection, _SENT, 1)


async def test_connections_that_the_broker_closes_are_opened_again(
    own_broker: RabbitMqServer, url: str, control_plane: Database, connection: asyncpg.Connection
) -> None:
    """As an operator does with `rabbitmqctl close_all_connections`."""
    async with carrying(url, control_plane) as both:
        await both.are(connected=True)
        await asyncio.to_thread(own_broker.ctl, "close_all_connections", "by an operator")
        await connection.execute(_ADD_COMMAND, uuid4())
        await both.has_taken(1)


async def test_a_broker_out_of_memory_takes_no_rows_but_gives_messages(
    own_broker: RabbitMqServer,
    url: str,
    control_plane: Database,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reads no publisher's connection: a row's outcome is in doubt, and it leaves after the alarm."""
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 1.0)
    async with connected(url, name="test") as before:
        await declare(before)
        channel = await before.channel()
        exchange = await channel.get_exchange(EXPORTER.exchange, ensure=False)
        await exchange.publish(aio_pika.Message(b"waited"), EXPORTER.binding)
    await _allow_memory(own_broker, "1MB")
    try:
        await connection.execute(_ADD_COMMAND, uuid4())
        async with carrying(url, control_plane) as both:
            await both.has_taken(1)
            await reaches(connection, _IN_DOUBT, 1)
            assert [delivery.body for delivery in both.deliveries] == [b"waited"]
            await _allow_memory(own_broker, "400MiB")
            await both.has_taken(2)
            await reaches(connection, _SENT, 1)
    finally:
        await _allow_memory(own_broker, "400MiB")


async def _allow_memory(server: RabbitMqServer, size: str) -> None:
    await asyncio.to_thread(server.ctl, "set_vm_memory_high_watermark", "absolute", size)


async def test_a_broker_that_answers_nothing_is_given_up(
    own_broker: RabbitMqServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Declaring, opening a channel, consuming and closing all end, long before a heartbeat is missed."""
    monkeypatch.setattr(broker_connection, "ANSWER_SECONDS", 0.5)
    slow = url.replace("heartbeat=1", "heartbeat=600")
    consumer = Consumer(EXPORTER, _ignore, _ignore)
    async with connected(slow, name="test") as connection:
        await declare(connection)
        with frozen(own_broker):
            for call in (declare, Publisher.open, consumer.run):
                with pytest.raises(TimeoutError, match="did not answer"):
                    await asyncio.wait_for(call(connection), DEADLINE_SECONDS)
            begin = time.monotonic()
            await _leave(slow, own_broker)
            assert time.monotonic() - begin < DEADLINE_SECONDS


async def _leave(url: str, server: RabbitMqServer) -> None:
    """Connect while it answers, leave while it does not."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGCONT)
    async with connected(url, name="test-leaving") as leaving:
        await leaving.channel()
        os.kill(server.pid, signal.SIGSTOP)


async def _ignore(*_arguments: object) -> None:
    return
