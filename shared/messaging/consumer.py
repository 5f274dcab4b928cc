"""Takes messages from one queue and acknowledges each when its handler has returned.

A handler commits what it does before it returns, so a crash in between is a redelivery, never a loss.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from shared.contracts.envelope import Delivery
from shared.contracts.errors import Unavailable, Unreadable
from shared.contracts.topology import Queue
from shared.messaging.connection import BROKER_ERRORS
from shared.messaging.session import BrokerLost
from shared.runtime.backoff import backoff
from shared.runtime.metrics import DELIVERIES, DELIVERY_OUTCOMES

PREFETCH = 20
#: Before a message that met an unforeseen error goes back: the broker's delivery limit ends such a loop.
RETURN_SECONDS = 1.0

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

    def __post_init__(self) -> None:
        for outcome in DELIVERY_OUTCOMES:
            DELIVERIES.labels(self.queue.name, outcome)

    async def run(self, connection: AbstractConnection) -> None:
        """Consume until the broker is lost or takes the consumer away (raises BrokerLost)."""
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=PREFETCH)
        taken_away = await _watch_cancel(channel)
        queue = await channel.get_queue(self.queue.name, ensure=True)
        await queue.consume(self._take)
        lost = asyncio.ensure_future(channel.closed())
        cancelled = asyncio.create_task(taken_away.wait())
        try:
            await asyncio.wait([lost, cancelled], return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            cancelled.cancel()
        raise BrokerLost(f"the consumer of {self.queue.name} has ended")

    async def _take(self, message: AbstractIncomingMessage) -> None:
        delivery = delivery_of(message)
        try:
            outcome = await self._handled(delivery)
            settle = message.ack
        except Exception:
            log.exception("a message met an unforeseen error and goes back", queue=self.queue.name)
            outcome = "returned"
            settle = message.nack
            await asyncio.sleep(RETURN_SECONDS)
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
                return await self._handled_once(delivery)
            except Unavailable as error:
                log.warning("a message waits", reason=error.sentence, queue=self.queue.name)
                await asyncio.sleep(next(waits))

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
    )


def _text(value: str | None) -> str | None:
    """PostgreSQL keeps every character but NUL; foreign publishers may write any."""
    return value.replace("\x00", "\ufffd") if value else value
