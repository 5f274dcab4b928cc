"""Carries outbox rows to the broker: claims a batch, publishes it at once, marks each by itself.

One runs in each process, beside the session for publishing. A row that fails waits by itself and never
holds up the rows behind it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol
from uuid import UUID

import structlog
from aio_pika.abc import AbstractConnection

from shared.contracts.envelope import OutboxRow
from shared.contracts.errors import Unavailable
from shared.messaging.publisher import CONFIRM_SECONDS, NotPublished, Publisher
from shared.messaging.session import BrokerLost
from shared.runtime.metrics import OUTBOX_OLDEST, OUTBOX_PUBLISHED, OUTBOX_WAITING
from shared.runtime.outage import Outage

POLL_SECONDS = 1.0
BATCH = 100
#: Longer than a confirmation may take, so that a live relay's rows are not taken by another.
CLAIM_SECONDS = 30.0
GIVE_UP_SECONDS = CONFIRM_SECONDS + 5
#: Seconds that a row waits after its 1st, 2nd … failure; the last for all later ones.
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)

log = structlog.get_logger(__name__)


class OutboxRows(Protocol):
    """Rows to publish; all methods raise Unavailable when the database cannot be reached."""

    async def claim(self, limit: int, *, claim_seconds: float) -> Sequence[OutboxRow]: ...

    async def sent(self, ids: Sequence[UUID]) -> None: ...

    async def failed(self, id: UUID, error: str, *, delay_seconds: float) -> None: ...  # noqa: A002

    async def waiting(self) -> tuple[int, float]: ...


class OutboxSession(Protocol):
    def __call__(self) -> AbstractAsyncContextManager[OutboxRows]: ...


@dataclass(frozen=True, slots=True)
class Relay:
    outbox: OutboxSession
    wake: asyncio.Event
    outage: Outage = field(default_factory=partial(Outage, "the outbox"))

    async def run(self, connection: AbstractConnection) -> None:
        """Publish until the broker is lost or an outcome is in doubt (raises BrokerLost)."""
        publisher = await Publisher.open(connection)
        limit = 1  # until the broker has confirmed anything: one that takes nothing is given no more
        while True:
            if not connection.connected.is_set():  # `is_closed` tells only of our own closing
                raise BrokerLost("the connection for publishing was closed")
            try:
                results = await self._round(publisher, limit)
            except Unavailable as error:
                self.outage.goes_on(error.sentence)
                results = []
            else:
                self.outage.ended()
            if any(error and error.in_doubt for error in results):
                raise BrokerLost("the outcome of a publish is in doubt")
            if results:
                limit = BATCH
            else:
                await self._sleep()

    async def _round(self, publisher: Publisher, limit: int) -> Sequence[NotPublished | None]:
        """Publish what is due, at most `limit`; None for each row that the broker has now."""
        self.wake.clear()
        async with self.outbox() as outbox:
            rows = await outbox.claim(limit, claim_seconds=CLAIM_SECONDS)
            if len(rows) < BATCH / 2:  # counting a long queue in each round would cost more than emptying it
                messages, oldest = await outbox.waiting()
                OUTBOX_WAITING.set(messages)
                OUTBOX_OLDEST.set(oldest)
        if not rows:
            return []
        results = await _published(publisher, rows)
        await self._mark(rows, results)
        return results

    async def _mark(self, rows: Sequence[OutboxRow], errors: Sequence[NotPublished | None]) -> None:
        ended = list(zip(rows, errors, strict=True))
        async with self.outbox() as outbox:
            await outbox.sent([row.envelope.id for row, error in ended if error is None])
            for row, error in ended:
                if error is not None:
                    await outbox.failed(row.envelope.id, str(error), delay_seconds=_wait_after(row.attempts))

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self.wake.wait()
        except TimeoutError:
            return


def _wait_after(attempts: int) -> float:
    return WAITS_SECONDS[min(attempts, len(WAITS_SECONDS)) - 1]


async def _published(publisher: Publisher, rows: Sequence[OutboxRow]) -> list[NotPublished | None]:
    """All at once; in doubt is also what the library does not give up in time."""
    tasks = [asyncio.create_task(_publish(publisher, row)) for row in rows]
    try:
        await asyncio.wait(tasks, timeout=GIVE_UP_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
    return [
        task.result() if task.done() and not task.cancelled() else NotPublished("no answer", in_doubt=True)
        for task in tasks
    ]


async def _publish(publisher: Publisher, row: OutboxRow) -> NotPublished | None:
    try:
        await publisher.publish(row.envelope, created_at=row.created_at)
    except NotPublished as error:
        if not error.in_doubt:  # then the session says once what all rows have met
            log.warning("not published", message_id=str(row.envelope.id), reason=str(error))
        OUTBOX_PUBLISHED.labels("failed").inc()
        return error
    except Exception as error:  # one row that cannot be written down must not end the process
        log.exception("a message met an unforeseen error and waits", message_id=str(row.envelope.id))
        OUTBOX_PUBLISHED.labels("failed").inc()
        return NotPublished(f"{type(error).__name__}: {error}", in_doubt=False)
    OUTBOX_PUBLISHED.labels("sent").inc()
    return None
