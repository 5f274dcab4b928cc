"""What a message costs: the outbox relay against bare publishing, intake against bare consuming.

`sandbox.bench.queue` calls it when no service runs. All four carry commands over the same queue, in this one
process; what was published is consumed next. Logs are written as a service writes them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import aio_pika

from sandbox.bench.queue_figures import CONSUME, INTAKE, PUBLISH, RELAY
from services.exporter.intake import Intake
from shared.contracts.envelope import Delivery, Envelope, envelope_of
from shared.contracts.messages import ExportRequested
from shared.contracts.topology import EXPORTER
from shared.messaging.connection import connected
from shared.messaging.consumer import PREFETCH, Consumer
from shared.messaging.declare import declare
from shared.messaging.relay import BATCH, Relay
from shared.storage.outbox_session import outbox_of
from shared.storage.set_aside import SetAside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    import asyncpg
    from aio_pika.abc import AbstractConnection, AbstractExchange, AbstractIncomingMessage

    from sandbox.bench.figures import Rounds
    from shared.storage.database import Database

_POLL_SECONDS = 0.01
_UNSENT = "SELECT EXISTS (SELECT FROM control_plane.outbox WHERE sent_at IS NULL)"
_FORGET = "TRUNCATE control_plane.jobs, control_plane.outbox, control_plane.audit_log CASCADE"


@dataclass(frozen=True, slots=True)
class Carrying:
    database: Database
    owner: asyncpg.Connection
    amqp_url: str
    messages: int

    async def __call__(self, rounds: int) -> Rounds:
        """Seconds for all messages, by what carried them; each round begins with the other side."""
        seconds: Rounds = {name: [] for name in (RELAY, PUBLISH, INTAKE, CONSUME)}
        for turn in range(rounds):
            for ours in (turn % 2 == 0, turn % 2 == 1):
                put, take = await (self._ours() if ours else self._bare())
                seconds[RELAY if ours else PUBLISH].append(put)
                seconds[INTAKE if ours else CONSUME].append(take)
        return seconds

    async def _ours(self) -> tuple[float, float]:
        await self.owner.execute(_FORGET)
        async with self._broker() as connection:
            return await self._relay(connection), await self._intake(connection)

    async def _bare(self) -> tuple[float, float]:
        async with self._broker() as connection:
            return await _publish(connection, self._commands()), await _consume(connection, self.messages)

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[AbstractConnection]:
        async with connected(self.amqp_url, name="bench") as connection:
            await declare(connection)
            yield connection

    async def _relay(self, connection: AbstractConnection) -> float:
        async with self.database.transaction() as transaction:
            for envelope in self._commands():
                await transaction.outbox.add(envelope)
        relay = Relay(outbox_of(self.database), asyncio.Event())
        started = time.monotonic()
        async with _beside(relay.run(connection)) as running:
            while await self.owner.fetchval(_UNSENT):
                await asyncio.wait([running], timeout=_POLL_SECONDS)
                _require_running(running)
        return time.monotonic() - started

    async def _intake(self, connection: AbstractConnection) -> float:
        """Each command is a new job of a project of its own."""
        intake, countdown = Intake(self.database, asyncio.Event()), _Countdown(self.messages)

        async def handle(delivery: Delivery) -> None:
            await intake(delivery)
            countdown.one()

        consumer = Consumer(EXPORTER, handle, SetAside(self.database, "bench"))
        started = time.monotonic()
        async with _beside(consumer.run(connection)) as running:
            await countdown.zero(running)
        return time.monotonic() - started

    def _commands(self) -> list[Envelope]:
        return [
            envelope_of(
                ExportRequested(project_id=f"project-{number}"),
                message_type=ExportRequested.type,
                correlation_id=uuid4(),
                traceparent=None,
            )
            for number in range(self.messages)
        ]


class _Countdown:
    def __init__(self, count: int) -> None:
        self._left = count
        self._ended = asyncio.Event()

    def one(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._ended.set()

    async def zero(self, running: asyncio.Task[None] | None = None) -> None:
        """Wait for it; what runs beside must not end before."""
        ended = asyncio.create_task(self._ended.wait())
        await asyncio.wait([ended, *([running] if running else [])], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if running:
            _require_running(running)


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(work)
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])


def _require_running(running: asyncio.Task[None]) -> None:
    if running.done():
        running.result()


async def _publish(connection: AbstractConnection, envelopes: Sequence[Envelope]) -> float:
    """As many at once as the relay's batch."""
    started = time.monotonic()
    channel = await connection.channel(publisher_confirms=True)
    for first in range(0, len(envelopes), BATCH):
        exchange = await channel.get_exchange(envelopes[first].exchange, ensure=False)
        batch = envelopes[first : first + BATCH]
        await asyncio.gather(*(_publish_one(exchange, envelope) for envelope in batch))
    await channel.close()
    return time.monotonic() - started


async def _publish_one(exchange: AbstractExchange, envelope: Envelope) -> None:
    message = aio_pika.Message(
        envelope.body,
        message_id=str(envelope.id),
        type=envelope.message_type,
        content_type=envelope.content_type,
        timestamp=datetime.now(UTC),
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    await exchange.publish(message, envelope.routing_key)


async def _consume(connection: AbstractConnection, messages: int) -> float:
    countdown = _Countdown(messages)

    async def take(message: AbstractIncomingMessage) -> None:
        await message.ack()
        countdown.one()

    started = time.monotonic()
    channel = await connection.channel(publisher_confirms=False)
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.get_queue(EXPORTER.name, ensure=False)
    await queue.consume(take)
    await countdown.zero()
    seconds = time.monotonic() - started
    await channel.close()
    return seconds
