"""A letter: one message in a queue that waits for a person.

`shared.messaging.letters` reads them, `shared.storage.letters` carries out what was decided, `pgferry dlq`
shows them. Headers are believed on `pgferry.dead` alone, where only we may publish (SECURITY.md).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

from shared.contracts.envelope import Delivery, Envelope, Properties, header_text
from shared.contracts.topology import (
    DEAD_EXPORTER,
    DEAD_UPLOADER,
    EXCHANGES,
    UNREADABLE,
    UNROUTED_QUEUE,
    Queue,
)

#: The queues that wait for a person, by the names that a person types.
LETTER_QUEUES: Mapping[str, Queue] = {
    "dead.exporter": DEAD_EXPORTER,
    "dead.uploader": DEAD_UPLOADER,
    "unreadable": UNREADABLE,
    "unrouted": UNROUTED_QUEUE,
}

#: What goes along when a message is published again; the rest is the broker's, or tells it what to do.
_KEPT_HEADERS = ("traceparent", "tracestate")
_REPLAYS = "x-replay-count"
_OUR_EXCHANGES = {exchange.name for exchange in EXCHANGES} | {""}  # "" leads to one queue by its name
_DIGEST_CHARACTERS = 16
_MOST_REPLAYS = 1_000_000  # more than a person asks for, less than a column takes


@dataclass(frozen=True, slots=True)
class Letter:
    """`queue` is one of LETTER_QUEUES."""

    queue: str
    delivery: Delivery

    @property
    def id(self) -> str:
        """The message id of a letter that we wrote. What others wrote may have none, or share one: then a
        digest of all that they wrote, which is the same at each look.
        """
        written = self._written_by_us and _uuid(self.delivery.message_id)
        return str(written) if written else self._digest()

    @property
    def reason(self) -> str:
        if self.queue == "unrouted":
            return "unrouted"
        return self.header("x-reason") or _text(self._death.get("reason")) or "unknown"

    @property
    def job_id(self) -> UUID | None:
        return _uuid(self.header("x-job-id")) if self.queue.startswith("dead.") else None

    @property
    def project_id(self) -> str | None:
        return self.header("x-project-id")

    @property
    def attempts(self) -> int | None:
        text = self.header("x-attempts")
        return int(text) if text and text.isdecimal() else None

    @property
    def replay_count(self) -> int:
        """How often it was requeued before."""
        return replay_count_of(self.delivery)

    def header(self, name: str) -> str | None:
        """A header of ours as text; None in a message that others wrote."""
        return header_text(self.delivery.headers.get(name)) or None if self._written_by_us else None

    def again(self) -> Envelope | None:
        """The original message with its original address; None where that is unknown, or not ours."""
        exchange, routing_key = self._origin
        if exchange not in _OUR_EXCHANGES or routing_key is None:
            return None
        message_type, content_type, properties = self._original()
        kept = {name: header_text(self.delivery.headers.get(name)) for name in _KEPT_HEADERS}
        return Envelope(
            id=uuid4(),
            exchange=exchange,
            routing_key=routing_key,
            message_type=message_type or "",
            body=self.delivery.body,
            content_type=content_type or "",
            headers={name: text for name, text in kept.items() if text} | {_REPLAYS: self.replay_count + 1},
            properties=properties,
        )

    @property
    def _written_by_us(self) -> bool:
        """Not by others: neither never routed, nor put here by the broker, which keeps their headers."""
        return self.queue != "unrouted" and not self._death

    @property
    def _death(self) -> Mapping[str, object]:
        """What the broker noted when it moved the message here by itself, as at the delivery limit."""
        deaths = self.delivery.headers.get("x-death")
        newest = deaths[0] if isinstance(deaths, list) and deaths else None
        return newest if isinstance(newest, dict) else {}

    @property
    def _origin(self) -> tuple[str | None, str | None]:
        if self.queue == "unrouted":
            return self.delivery.exchange, self.delivery.routing_key
        if self._death:
            keys = self._death.get("routing-keys")
            return _text(self._death.get("exchange")), _text(keys[0]) if isinstance(keys, list) else None
        headers = self.delivery.headers
        return _text(headers.get("x-exchange")), _text(headers.get("x-routing-key"))

    def _original(self) -> tuple[str | None, str | None, Properties]:
        """Type, content type and properties of the message before we set it aside."""
        if not self._written_by_us:
            delivery = self.delivery
            return (
                delivery.message_type,
                delivery.content_type,
                Properties(delivery.message_id, delivery.app_id, delivery.correlation_id),
            )
        properties = Properties(
            self.header("x-message-id"), self.header("x-app-id"), self.header("x-correlation-id")
        )
        return self.header("x-message-type"), self.header("x-content-type"), properties

    def _digest(self) -> str:
        delivery = self.delivery
        digest = hashlib.sha256()
        texts = (
            delivery.exchange,
            delivery.routing_key,
            delivery.message_id,
            delivery.message_type,
            delivery.app_id,
            delivery.content_type,
            delivery.correlation_id,
        )
        for piece in (*((text or "").encode(errors="replace") for text in texts), delivery.body):
            digest.update(len(piece).to_bytes(8, "big") + piece)
        return digest.hexdigest()[:_DIGEST_CHARACTERS]


def replay_count_of(delivery: Delivery) -> int:
    """How often a person has requeued this message."""
    count = delivery.headers.get(_REPLAYS)
    return count if isinstance(count, int) and 0 <= count < _MOST_REPLAYS else 0


def _text(value: object) -> str | None:
    return header_text(value) if isinstance(value, str) else None


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
