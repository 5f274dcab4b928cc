"""Keeps unreadable messages for a person: through the outbox into the queue of unreadable messages."""

import socket
from dataclasses import dataclass

from shared.contracts.envelope import Delivery, HeaderValue, dead_letter, header_text
from shared.contracts.errors import Unreadable
from shared.contracts.letter import replay_count_of
from shared.contracts.topology import UNREADABLE_KEY
from shared.storage.database import Database

_HEADER_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class SetAside:
    database: Database
    service: str

    async def __call__(self, delivery: Delivery, error: Unreadable) -> None:
        """Keep the original bytes, with the reason and where it came from as headers."""
        headers: dict[str, HeaderValue] = {
            "x-reason": error.reason,
            "x-message": str(error)[:_HEADER_CHARACTERS],
            "x-service": self.service,
            "x-host": socket.gethostname(),
            "x-exchange": delivery.exchange,
            "x-routing-key": delivery.routing_key,
            "x-message-id": (delivery.message_id or "")[:_HEADER_CHARACTERS],
            "x-message-type": (delivery.message_type or "")[:_HEADER_CHARACTERS],
            "x-app-id": (delivery.app_id or "")[:_HEADER_CHARACTERS],
            "x-content-type": header_text(delivery.content_type)[:_HEADER_CHARACTERS],
            "x-correlation-id": (delivery.correlation_id or "")[:_HEADER_CHARACTERS],
            "x-replay-count": replay_count_of(delivery),
        }
        if delivery.traceparent:
            headers["traceparent"] = delivery.traceparent
        letter = dead_letter(
            delivery.body, routing_key=UNREADABLE_KEY, message_type="unreadable", headers=headers
        )
        async with self.database.transaction() as transaction:
            await transaction.outbox.add(letter)
