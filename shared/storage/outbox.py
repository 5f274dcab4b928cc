"""Messages that leave after the commit of what they announce: `control_plane.outbox`.

Use cases add rows in their transaction; the relay (`shared.messaging.relay`) claims, publishes and marks
them, each row with its own error and backoff.
"""

from collections.abc import Sequence
from dataclasses import asdict
from uuid import UUID

import asyncpg

from shared.contracts.envelope import Envelope, OutboxRow, Properties
from shared.storage.executor import Executor

_ADD = """
    INSERT INTO control_plane.outbox
        (id, exchange, routing_key, message_type, content_type, body, headers, correlation_id, properties)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""

# A claim is a short sleep of the row: a relay that dies in the middle gives it back by itself. Rows that have
# been tried before get a tenth, and what the new ones leave: neither kind may fill every batch.
_CLAIM = """
    WITH new AS (
        SELECT id FROM control_plane.outbox
         WHERE sent_at IS NULL AND run_after <= now() AND attempts = 0
         ORDER BY run_after, sequence
         LIMIT $1::int - $1::int / 10
           FOR UPDATE SKIP LOCKED),
    tried AS (
        SELECT id FROM control_plane.outbox
         WHERE sent_at IS NULL AND run_after <= now() AND attempts > 0
         ORDER BY run_after, sequence
         LIMIT $1::int - (SELECT count(*) FROM new)
           FOR UPDATE SKIP LOCKED)
    UPDATE control_plane.outbox
       SET run_after = now() + make_interval(secs => $2), attempts = attempts + 1
     WHERE id IN (SELECT id FROM new UNION ALL SELECT id FROM tried)
    RETURNING *
"""

# A relay that slept past its claim and wakes changes nothing: another one has published and marked the row.
_SENT = """
    UPDATE control_plane.outbox SET sent_at = now(), last_error = NULL
     WHERE id = ANY($1::uuid[]) AND sent_at IS NULL
"""

_FAILED = """
    UPDATE control_plane.outbox
       SET run_after = now() + make_interval(secs => $2), last_error = left($3, 1000)
     WHERE id = $1 AND sent_at IS NULL
"""

_WAITING = """
    SELECT count(*) AS messages, coalesce(extract(epoch FROM min(created_at)), 0)::float8 AS oldest
      FROM control_plane.outbox WHERE sent_at IS NULL
"""


class Outbox:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.grew = False

    async def add(self, envelope: Envelope) -> None:
        """Keep a message until it is published; it leaves only if this transaction commits."""
        await self._executor.execute(
            _ADD,
            envelope.id,
            envelope.exchange,
            envelope.routing_key,
            envelope.message_type,
            envelope.content_type,
            envelope.body,
            dict(envelope.headers),
            envelope.correlation_id,
            asdict(envelope.properties) if envelope.properties else None,
        )
        self.grew = True

    async def claim(self, limit: int, *, claim_seconds: float) -> Sequence[OutboxRow]:
        """Take up to `limit` due rows for `claim_seconds`; another relay skips them until then."""
        return [_row(record) for record in await self._executor.fetch(_CLAIM, limit, claim_seconds)]

    async def sent(self, ids: Sequence[UUID]) -> None:
        await self._executor.execute(_SENT, list(ids))

    async def failed(self, id: UUID, error: str, *, delay_seconds: float) -> None:  # noqa: A002
        await self._executor.execute(_FAILED, id, delay_seconds, error)

    async def waiting(self) -> tuple[int, float]:
        """Unsent rows, and when the oldest was added (Unix seconds; 0 without rows)."""
        record = await self._executor.fetchrow(_WAITING)
        return (record["messages"], record["oldest"]) if record else (0, 0.0)


def _row(record: asyncpg.Record) -> OutboxRow:
    envelope = Envelope(
        id=record["id"],
        exchange=record["exchange"],
        routing_key=record["routing_key"],
        message_type=record["message_type"],
        body=record["body"],
        content_type=record["content_type"],
        headers=record["headers"],
        correlation_id=record["correlation_id"],
        properties=Properties(**record["properties"]) if record["properties"] else None,
    )
    return OutboxRow(envelope, attempts=record["attempts"], created_at=record["created_at"])
