"""Publishes one message and returns when the broker has it, or raises."""

import asyncio
from datetime import datetime

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.contracts.envelope import Envelope, Properties
from shared.contracts.topology import MANDATORY
from shared.messaging.connection import BROKER_ERRORS, answered, asked_to_stop

CONFIRM_SECONDS = 10.0


class NotPublished(Exception):
    """The broker does not have the message, or nobody knows: the row stays and is tried again.

    `in_doubt`: the outcome is unknown; the channel is gone, or its confirmations can no longer be told
    apart.
    """

    def __init__(self, text: str, *, in_doubt: bool) -> None:
        super().__init__(text)
        self.in_doubt = in_doubt


class Publisher:
    """Publishes with confirms on one channel; after an outcome in doubt, begin with a new connection."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel

    @classmethod
    async def open(cls, connection: AbstractConnection) -> "Publisher":
        """Raises TimeoutError when the channel does not become ready."""
        channel = connection.channel(publisher_confirms=True, on_return_raises=True)
        await answered(channel.initialize())
        return cls(channel)

    async def publish(self, envelope: Envelope, *, created_at: datetime) -> None:
        """Raises NotPublished; a message that arrived after all is a duplicate, which readers expect."""
        try:
            exchange = await self._channel.get_exchange(envelope.exchange, ensure=False)
            confirmation = await exchange.publish(
                _message(envelope, created_at),
                envelope.routing_key,
                mandatory=envelope.exchange in MANDATORY or envelope.properties is not None,
                timeout=CONFIRM_SECONDS,
            )
        except aio_pika.exceptions.PublishError as error:
            raise NotPublished(
                f"no queue takes {envelope.routing_key} on {envelope.exchange}", in_doubt=False
            ) from error
        except aio_pika.exceptions.DeliveryError as error:
            raise NotPublished("the broker refused the message", in_doubt=False) from error
        except (*BROKER_ERRORS, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and asked_to_stop():
                raise
            raise NotPublished(f"{type(error).__name__}: {error}", in_doubt=True) from error
        if not isinstance(confirmation, aiormq.spec.Basic.Ack):
            raise NotPublished(f"the broker answered {type(confirmation).__name__}", in_doubt=False)


def _message(envelope: Envelope, created_at: datetime) -> aio_pika.Message:
    properties = envelope.properties or _own_properties(envelope)
    return aio_pika.Message(
        envelope.body,
        message_id=properties.message_id,
        type=envelope.message_type or None,
        content_type=envelope.content_type or None,
        correlation_id=properties.correlation_id,
        timestamp=created_at,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        app_id=properties.app_id,
        headers=dict(envelope.headers),
    )


def _own_properties(envelope: Envelope) -> Properties:
    correlation_id = str(envelope.correlation_id) if envelope.correlation_id else None
    return Properties(message_id=str(envelope.id), app_id="pgferry", correlation_id=correlation_id)
