"""Takes messages from one queue and acknowledges each when its handler has returned.

A handler commits what it does before it returns, so a crash in between is a redelivery, never a loss.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from shared.contracts.envelope import Delivery
from shared.contracts.errors import Unavailable, Unreadable
from shared.contracts.topology import Queue
from shared.messaging.connection import BROKER_ERRORS, answered, gone
from shared.messaging.session import BrokerLost
from shared.runtime.backoff import backoff
from shared.runtime.metrics import DELIVERIES, DELIVERY_OUTCOMES
from shared.runtime.outage import Outage

PREFETCH = 20
#: Before a message that met an unforeseen error goes back: the broker's delivery limit ends such a loop.
RETURN_SECONDS = 1.0
#: A handler that takes longer hangs, or waits for the database: the log says which message.
LATE_SECONDS = 60.0

log = structlog.get_logger(__name__)

Handler = Callable[[Delivery], Awaitable[None]]
"""Raises Unreadable for what can never be understood, Unavailable for what must wait."""

SetAside = Callable[[Delivery, Unreadable], Awaitable[None]]
"""Keeps an unreadable message, with its reason, for a person."""


@dataclass(frozen=True, slots=True)
class Consumer:
    queue: Queue
    handler: Handler
    set_aside: SetAside
    outage: Outage = field(default_factory=partial(Outage, "what messages need"))

    def __post_init__(self) -> None:
        for outcome in DELIVERY_OUTCOMES:
            DELIVERIES.labels(self.queue.name, outcome)

    async def run(self, connection: AbstractConnection) -> None:
        """Consume until the broker is lost or takes the consumer away (raises BrokerLost)."""
        channel = connection.channel(publisher_confirms=False)
        taken_away = await answered(self._begin(channel))
        ends = [asyncio.ensure_future(end) for end in (channel.closed(), taken_away.wait(), gone(connection))]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        raise BrokerLost(f"the consumer of {self.queue.name} has ended")

    async def _begin(self, channel: AbstractChannel) -> asyncio.Event:
        """Returns what is set when the broker takes the consumer away."""
        await channel.initialize()
        await channel.set_qos(prefetch_count=PREFETCH)
        taken_away = await _watch_cancel(channel)
        queue = await channel.get_queue(self.queue.name, ensure=True)
        await queue.consume(self._take)
        return taken_away

    async def _take(self, message: AbstractIncomingMessage) -> None:
        delivery = delivery_of(message)
        late = asyncio.get_running_loop().call_later(LATE_SECONDS, self._say_late, delivery)
        try:
            outcome = await self._handled(delivery)
            settle = message.ack
        except Exception:
            log.exception("a message met an unforeseen error and goes back", queue=self.queue.name)
            outcome = "returned"
            settle = message.nack
            await asyncio.sleep(RETURN_SECONDS)
        finally:
            late.cancel()
        try:
            await settle()
        except BROKER_ERRORS as error:
            log.info("not acknowledged, will be delivered again", reason=repr(error))
            return
        DELIVERIES.labels(self.queue.name, outcome).inc()

    async def _handled(self, delivery: Delivery) -> str:
        """Handle it, however long the database is away: a return would use up the delivery limit."""
        waits = backoff()
        while True:
            try:
                outcome = await self._handled_once(delivery)
            except Unavailable as error:
                self.outage.goes_on(error.sentence)
                await asyncio.sleep(next(waits))
            else:
                self.outage.ended()
                return outcome

    def _say_late(self, delivery: Delivery) -> None:
        log.warning(
            "a message is still not handled",
            queue=self.queue.name,
            message_id=delivery.message_id,
            seconds=LATE_SECONDS,
        )

    async def _handled_once(self, delivery: Delivery) -> str:
        try:
            await self.handler(delivery)
        except Unreadable as error:
            log.warning("unreadable message", reason=error.reason, queue=self.queue.name)
            await self.set_aside(delivery, error)
            return "unreadable"
        return "handled"


async def _watch_cancel(channel: AbstractChannel) -> asyncio.Event:
    """An event for the broker's own basic.cancel, as when the queue is deleted."""
    event = asyncio.Event()
    underlay = await channel.get_underlay_channel()
    underlay.on_consumer_cancel_callbacks.add(lambda _frame: event.set())
    return event


def delivery_of(message: AbstractIncomingMessage) -> Delivery:
    return Delivery(
        body=message.body,
        message_id=_text(message.message_id),
        message_type=_text(message.type),
        app_id=_text(message.app_id),
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        content_type=message.content_type,
        headers=dict(message.headers),
        correlation_id=_text(message.correlation_id),
        sent_at=message.timestamp,
    )


def _text(value: str | None) -> str | None:
    """PostgreSQL keeps every character but NUL; foreign publishers may write any."""
    return value.replace("\x00", "\ufffd") if value else value
