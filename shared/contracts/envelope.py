"""A message with its address: what storage keeps in the outbox and messaging carries."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from pydantic import BaseModel

from shared.contracts.topology import DEAD, EXCHANGE_OF

HeaderValue = str | int

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Properties:
    """What another publisher wrote of its message, to publish that again as it was."""

    message_id: str | None
    app_id: str | None
    correlation_id: str | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message on its way out; `id` becomes the AMQP message id, unique among all that is sent.

    With `properties` the message is not ours and keeps what its publisher wrote, the message id too.
    """

    id: UUID
    exchange: str
    routing_key: str
    message_type: str
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    correlation_id: UUID | None = None
    properties: Properties | None = None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    envelope: Envelope
    attempts: int  #: to publish it, this one included
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that came in, as the broker gave it; nothing here is checked yet."""

    body: bytes
    message_id: str | None
    message_type: str | None
    app_id: str | None
    exchange: str
    routing_key: str
    content_type: str | None
    headers: Mapping[str, object]
    correlation_id: str | None = None
    sent_at: datetime | None = None

    @property
    def traceparent(self) -> str | None:
        """The header if it is one (W3C Trace Context); it goes on into our rows and messages."""
        value = self.headers.get("traceparent")
        return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def envelope_of(
    message: BaseModel,
    *,
    message_type: str,
    correlation_id: UUID,
    traceparent: str | None,
    id: UUID | None = None,  # noqa: A002 - the word of the broker's contract
) -> Envelope:
    """Address a message by its type; its id is new unless the caller must know it beforehand."""
    return Envelope(
        id=id or uuid4(),
        exchange=EXCHANGE_OF[message_type],
        routing_key=message_type,
        message_type=message_type,
        body=message.model_dump_json().encode(),
        headers={"traceparent": traceparent} if traceparent else {},
        correlation_id=correlation_id,
    )


def header_text(value: object) -> str:
    """A header's value as PostgreSQL and a log can keep it: without NUL, whoever wrote it."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str("" if value is None else value)
    return text.replace("\x00", "\ufffd")


def dead_letter(
    body: bytes,
    *,
    routing_key: str,
    message_type: str,
    headers: Mapping[str, HeaderValue],
    correlation_id: UUID | None = None,
) -> Envelope:
    """The original bytes with the reasons as headers, for a queue that a person looks at."""
    return Envelope(
        id=uuid4(),
        exchange=DEAD,
        routing_key=routing_key,
        message_type=message_type,
        body=body,
        headers=headers,
        correlation_id=correlation_id,
    )
