"""Declares the topology as `shared.contracts.topology` has it, or says how the broker's differs."""

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.contracts.topology import EXCHANGES, QUEUES, Exchange, Queue
from shared.messaging.connection import answered
from shared.runtime.process import Fatal


class TopologyMismatch(Fatal):
    """The broker has an exchange or queue of our name with other arguments."""


async def declare(connection: AbstractConnection) -> None:
    """Actively declare everything: passive declarations would not compare arguments.

    Raises TopologyMismatch with the broker's own words, and TimeoutError when it says nothing.
    """
    await answered(_declare(connection))


async def _declare(connection: AbstractConnection) -> None:
    channel = await connection.channel()
    try:
        for exchange in EXCHANGES:
            await _declare_exchange(channel, exchange)
        for queue in QUEUES:
            await _declare_queue(channel, queue)
    except (aio_pika.exceptions.ChannelPreconditionFailed, aiormq.exceptions.ChannelNotFoundEntity) as error:
        raise TopologyMismatch(
            "The broker's exchanges or queues differ from what this version declares, and RabbitMQ says: "
            f"{error}. Move the messages away and delete the queue, or run the version that made it."
        ) from error
    await channel.close()


async def _declare_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    await channel.declare_exchange(
        exchange.name,
        aio_pika.ExchangeType.TOPIC,
        durable=True,
        arguments={"alternate-exchange": exchange.alternate} if exchange.alternate else None,
    )


async def _declare_queue(channel: AbstractChannel, queue: Queue) -> None:
    declared = await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
    await declared.bind(queue.exchange, queue.binding)
