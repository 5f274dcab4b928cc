"""Consuming from a real broker: what is acknowledged when, and what a session does when it is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import unquote, urlsplit

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from structlog.testing import capture_logs

from sandbox.rabbitmq import Node
from shared.contracts.envelope import Delivery
from shared.contracts.errors import Unavailable, Unreadable
from shared.contracts.topology import COMMANDS, EXPORTER, INTERNAL, QUEUES, UNREADABLE, UPLOADER
from shared.messaging.connection import connected
from shared.messaging.consumer import Consumer
from shared.messaging.declare import TopologyMismatch, declare
from shared.messaging.relay import Relay
from shared.messaging.session import BrokerLost, Session
from shared.storage.database import Database
from shared.storage.nudges import OUTBOX
from shared.storage.outbox_session import outbox_of
from shared.storage.set_aside import SetAside
from tests.waiting import beside, eventually

Handler = Callable[[Delivery], Awaitable[None]]


@dataclass
class Handled:
    """A handler that remembers what it was given; each call first does what the next of `surprises` says."""

    surprises: list[Callable[[], None]] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self.surprises:
            self.surprises.pop(0)()

    async def times(self, number: int) -> None:
        async def reached() -> bool:
            return len(self.deliveries) >= number

        await eventually(reached)
        assert len(self.deliveries) == number

    async def has(self, body: bytes, *, after: bytes | None = None) -> None:
        """Wait for a delivery of this body, behind the first one of the other."""

        async def reached() -> bool:
            bodies = [delivery.body for delivery in self.deliveries]
            return body in bodies[bodies.index(after) if after else 0 :]

        await eventually(reached)


def raising(error: Exception) -> Callable[[], None]:
    def surprise() -> None:
        raise error

    return surprise


async def never_set_aside(_delivery: Delivery, error: Unreadable) -> None:
    raise AssertionError(error)


@pytest.fixture
async def channel(vhost_url: str) -> AsyncIterator[AbstractChannel]:
    """The test's own channel to a broker whose topology is declared."""
    async with connected(vhost_url, name="test") as connection:
        await declare(connection)
        yield await connection.channel()


@asynccontextmanager
async def consuming(
    url: str, handler: Handler, *, set_aside: Callable[[Delivery, Unreadable], Awaitable[None]] | None = None
) -> AsyncIterator[Session]:
    """A session that consumes the exporter's queue beside the block."""
    session = Session(url, service="test", purpose="consumer")
    consumer = Consumer(EXPORTER, handler, set_aside or never_set_aside)
    async with beside(session.run(consumer.run)):
        yield session


async def publish(channel: AbstractChannel, body: bytes = b"{}", **properties: object) -> None:
    exchange = await channel.get_exchange(COMMANDS, ensure=False)
    message = aio_pika.Message(body, **properties)  # type: ignore[arg-type]
    await exchange.publish(message, EXPORTER.binding, mandatory=True)


async def taken_from(channel: AbstractChannel, queue: str) -> AbstractIncomingMessage | None:
    message = await (await channel.get_queue(queue, ensure=False)).get(fail=False)
    if message is not None:
        await message.ack()
    return message


async def waiting_in(url: str, queue: str) -> int:
    """Messages in the queue when no consumer holds any: the connection is the test's own and new."""
    async with connected(url, name="test-count") as connection:
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


# The topology


async def test_declaring_twice_is_fine(vhost_url: str) -> None:
    """Every service declares at every start."""
    async with connected(vhost_url, name="test") as connection:
        await declare(connection)
        await declare(connection)
        channel = await connection.channel()
        for queue in QUEUES:
            await channel.get_queue(queue.name, ensure=True)


async def test_a_broker_that_disagrees_stops_the_process_with_its_own_words(vhost_url: str) -> None:
    """A queue of our name with other arguments: no waiting mends that, and RabbitMQ says what differs."""
    async with connected(vhost_url, name="test") as connection:
        channel = await connection.channel()
        await channel.declare_queue(EXPORTER.name, durable=True, arguments={"x-queue-type": "classic"})

    session = Session(vhost_url, service="test", purpose="consumer")
    with pytest.raises(TopologyMismatch, match=r"inequivalent arg '.*' for queue 'pgferry\.exporter"):
        await session.run(Consumer(EXPORTER, Handled(), never_set_aside).run)


async def test_an_exchange_of_another_kind_stops_the_process_too(vhost_url: str) -> None:
    """Not only queues are compared."""
    async with connected(vhost_url, name="test") as connection:
        channel = await connection.channel()
        await channel.declare_exchange(INTERNAL, aio_pika.ExchangeType.FANOUT, durable=True)

        with pytest.raises(
            TopologyMismatch, match=r"inequivalent arg 'type' for exchange 'pgferry\.internal'"
        ):
            await declare(connection)


# Deliveries


async def test_a_message_is_acknowledged_after_it_was_handled(
    vhost_url: str, channel: AbstractChannel
) -> None:
    """Until the handler has returned, a lost connection brings it back; afterwards it is gone."""
    handler, may_return = Handled(), asyncio.Event()

    async def slow(delivery: Delivery) -> None:
        await handler(delivery)
        await may_return.wait()

    await publish(channel, b"first")
    async with consuming(vhost_url, slow):
        await handler.times(1)
    assert await waiting_in(vhost_url, EXPORTER.name) == 1

    may_return.set()
    async with consuming(vhost_url, slow):
        await handler.times(2)
        await publish(channel, b"second")
        await handler.times(3)
    assert [delivery.body for delivery in handler.deliveries] == [b"first", b"first", b"second"]
    assert await waiting_in(vhost_url, EXPORTER.name) == 0


async def test_a_delivery_says_what_the_broker_knows(vhost_url: str, channel: AbstractChannel) -> None:
    """Properties, headers and address; whatever a foreign publisher left out is None."""
    handler = Handled()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await publish(channel, b"plain")
    await publish(
        channel, b"full", message_id="m-1", type="t", app_id="billing", headers={"traceparent": trace, "n": 1}
    )

    async with consuming(vhost_url, handler):
        await handler.times(2)
    plain, full = sorted(handler.deliveries, key=lambda delivery: delivery.body, reverse=True)

    assert (plain.message_type, plain.app_id, plain.traceparent) == (None, None, None)
    assert (plain.exchange, plain.routing_key) == (COMMANDS, EXPORTER.binding)
    assert (full.message_id, full.message_type, full.app_id) == ("m-1", "t", "billing")
    assert full.traceparent == trace
    assert full.headers["n"] == 1


@pytest.mark.parametrize("value", ["nonsense", "00-\x00-01", 17])
async def test_a_traceparent_that_is_none_is_not_passed_on(
    vhost_url: str, channel: AbstractChannel, value: object
) -> None:
    """It would end in a text column and in the headers of our own messages."""
    handler = Handled()
    await publish(channel, headers={"traceparent": value})

    async with consuming(vhost_url, handler):
        await handler.times(1)

    assert handler.deliveries[0].traceparent is None


async def test_a_message_waits_for_what_is_down(vhost_url: str, channel: AbstractChannel) -> None:
    """It is held, not returned: returns would use up the delivery limit. Others are handled meanwhile."""
    handler, up = Handled(), asyncio.Event()

    async def needs_database(delivery: Delivery) -> None:
        await handler(delivery)
        if delivery.body == b"held" and not up.is_set():
            raise Unavailable("database", "PostgreSQL is not reachable.")

    await publish(channel, b"held")
    async with consuming(vhost_url, needs_database):
        await handler.times(1)
        await publish(channel, b"other")
        await handler.has(b"other")
        up.set()
        await handler.has(b"held", after=b"other")

    assert not any("x-delivery-count" in delivery.headers for delivery in handler.deliveries)
    assert await waiting_in(vhost_url, EXPORTER.name) == 0


async def test_an_unforeseen_error_brings_the_message_back(vhost_url: str, channel: AbstractChannel) -> None:
    """A bug may hit one message or one moment; the broker counts the returns and ends a loop."""
    handler = Handled([raising(ZeroDivisionError())])
    await publish(channel, b"once more")

    async with consuming(vhost_url, handler):
        await handler.times(2)

    assert handler.deliveries[1].headers["x-delivery-count"] == 1
    assert await waiting_in(vhost_url, EXPORTER.name) == 0


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param({"message_id": "m-1", "type": "export.requested.v9"}, id="named"),
        pytest.param({"message_id": "m-1"}, id="bare"),
        pytest.param(
            {"message_id": "m", "app_id": "a", "content_type": "text/plain", "correlation_id": "c"}, id="full"
        ),
        pytest.param({"message_id": "m\x00", "type": "t\x00", "headers": {"h": "\x00"}}, id="nul"),
        pytest.param({"message_id": "é" * 100}, id="long"),
    ],
)
async def test_an_unreadable_message_is_set_aside_once(
    vhost_url: str, channel: AbstractChannel, control_plane: Database, properties: dict[str, object]
) -> None:
    """Original bytes, reason and origin go to a queue for people, whatever the publisher wrote where."""
    body = b"\xff\x00 not JSON"
    handler = Handled([raising(Unreadable("not_json", "The body is not JSON."))])
    relay = Relay(outbox_of(control_plane), control_plane.nudges.event(OUTBOX))
    await publish(channel, body, **properties)

    async with AsyncExitStack() as stack:
        publisher = Session(vhost_url, service="test", purpose="publisher")
        await stack.enter_async_context(beside(publisher.run(relay.run)))
        set_aside = SetAside(control_plane, "exporter")
        await stack.enter_async_context(consuming(vhost_url, handler, set_aside=set_aside))
        await eventually(partial(_has_message, vhost_url, UNREADABLE.name))
    letter = await taken_from(channel, UNREADABLE.name)

    assert letter is not None
    assert letter.body == body
    headers = dict(letter.headers)
    assert headers.pop("x-host")
    assert headers.pop("x-message-id") == str(properties["message_id"]).replace("\x00", "\ufffd")
    assert headers == {
        "x-reason": "not_json",
        "x-message": "The body is not JSON.",
        "x-service": "exporter",
        "x-exchange": COMMANDS,
        "x-routing-key": EXPORTER.binding,
        "x-delivery-count": 0,
        "x-message-type": str(properties.get("type", "")).replace("\x00", "\ufffd"),
        "x-app-id": properties.get("app_id", ""),
        "x-content-type": properties.get("content_type", ""),
        "x-correlation-id": properties.get("correlation_id", ""),
        "x-replay-count": 0,
    }
    assert len(handler.deliveries) == 1
    assert await waiting_in(vhost_url, EXPORTER.name) == 0
    assert await taken_from(channel, UNREADABLE.name) is None


async def _has_message(url: str, queue: str) -> bool:
    return await waiting_in(url, queue) == 1


async def test_an_unreadable_message_waits_for_the_database(
    vhost_url: str, channel: AbstractChannel, connection: asyncpg.Connection
) -> None:
    """Setting aside is a write like any other: while it cannot be made, the message is not acknowledged."""
    unreadable = raising(Unreadable("not_json", "The body is not JSON."))
    handler, kept = Handled([unreadable, unreadable]), Handled([raising(Unavailable("database", "Down."))])
    await publish(channel)

    async def set_aside(delivery: Delivery, _error: Unreadable) -> None:
        await kept(delivery)

    async with consuming(vhost_url, handler, set_aside=set_aside):
        await kept.times(2)

    assert await waiting_in(vhost_url, EXPORTER.name) == 0


# Losing the broker


async def test_a_deleted_queue_starts_the_session_anew(vhost_url: str, channel: AbstractChannel) -> None:
    """The broker takes the consumer away; the next session declares the queue again and consumes."""
    handler = Handled()
    await publish(channel, b"before")

    async with consuming(vhost_url, handler):
        await handler.times(1)
        await channel.queue_delete(EXPORTER.name)
        await eventually(partial(_published_again, channel))
        await handler.times(2)

    assert [delivery.body for delivery in handler.deliveries] == [b"before", b"after"]


async def _published_again(channel: AbstractChannel) -> bool:
    """Publish once the queue is there: without it, the message goes to the unrouted ones."""
    exchange = await channel.get_exchange(COMMANDS, ensure=False)
    await exchange.publish(aio_pika.Message(b"after"), EXPORTER.binding)
    return await taken_from(channel, "pgferry.unrouted.v1") is None


async def test_a_deleted_queue_ends_the_consumer(vhost_url: str, channel: AbstractChannel) -> None:
    """Without a session around it, the consumer says that it has ended instead of waiting for ever."""
    consumer = Consumer(EXPORTER, Handled(), never_set_aside)
    async with connected(vhost_url, name="test-consumer") as connection:
        running = asyncio.create_task(consumer.run(connection))
        await eventually(partial(_has_consumer, channel))
        await channel.queue_delete(EXPORTER.name)

        with pytest.raises(BrokerLost):
            await asyncio.wait_for(running, timeout=10)


async def _has_consumer(channel: AbstractChannel) -> bool:
    declared = await channel.declare_queue(EXPORTER.name, passive=True)
    return declared.declaration_result.consumer_count == 1


async def test_a_message_in_hand_when_the_connection_is_lost_comes_back(
    vhost_url: str, channel: AbstractChannel, rabbitmq_node: Node
) -> None:
    """Its handler is cancelled or its acknowledgement is refused; the next session is given it again."""
    may_return = asyncio.Event()
    handler = Handled()

    async def stubborn(delivery: Delivery) -> None:
        """Is not to be cancelled, like a commit that is under way."""
        await handler(delivery)
        while not may_return.is_set():
            with suppress(asyncio.CancelledError):
                await may_return.wait()

    await publish(channel, b"kept")
    with capture_logs() as logs:
        async with consuming(vhost_url, stubborn):
            await handler.times(1)
            vhost = unquote(urlsplit(vhost_url).path[1:])
            await asyncio.to_thread(rabbitmq_node.ctl, "close_all_connections", "--vhost", vhost, "test")
            may_return.set()
            await handler.times(2)

    assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert await waiting_in(vhost_url, EXPORTER.name) == 0


@dataclass
class Cutting:
    """A way to the broker whose first connection is cut after some bytes of the broker's answers."""

    upstream: int
    after_bytes: int
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        cut = self.connections == 1
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        back = _copy(broker_reader, writer, limit=self.after_bytes if cut else None)
        forth = _copy(reader, broker_writer)
        tasks = [asyncio.create_task(back), asyncio.create_task(forth)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, broker_writer):
                end.transport.abort()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, limit: int | None = None
) -> None:
    passed = 0
    while limit is None or passed < limit:
        data = await reader.read(1024 if limit is None else min(1024, limit - passed))
        if not data:
            return
        passed += len(data)
        writer.write(data)
        await writer.drain()


async def test_a_connection_cut_anywhere_is_a_wait_and_never_an_end(
    vhost_url: str, channel: AbstractChannel
) -> None:
    """In the handshake, while declaring, while a channel opens: about 1070 bytes come back in all of that."""
    async with asyncio.TaskGroup() as tasks:
        for after_bytes in range(0, 1050, 70):
            tasks.create_task(_consumes_after_a_cut(vhost_url, after_bytes))


async def _consumes_after_a_cut(url: str, after_bytes: int) -> None:
    parsed = urlsplit(url)
    assert parsed.port is not None
    way = Cutting(parsed.port, after_bytes)
    server = await asyncio.start_server(way, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    session = Session(
        parsed._replace(netloc=parsed.netloc.replace(str(parsed.port), str(port))).geturl(),
        service="test",
        purpose="consumer",
    )
    began = asyncio.Event()

    async def work(connection: AbstractConnection) -> None:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        await channel.get_queue(UPLOADER.name, ensure=True)
        if way.connections > 1:
            began.set()
        await channel.closed()
        raise BrokerLost("cut")

    async with beside(session.run(work)) as running:
        waiting = asyncio.create_task(began.wait())
        await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED, timeout=30)
        assert began.is_set(), f"cut after {after_bytes} bytes: the session ended"
    server.close()
    await server.wait_closed()
