"""Looks at the queues that wait for a person; only what was decided on leaves them.

`pgferry dlq` calls it. There is no management plugin to ask, so a look takes messages without acknowledging
them, and the broker takes them back when the channel is closed: at the end of the block, or when the process
dies. It does so in any order, so whoever shows letters sorts them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue

from shared.contracts.errors import Unavailable
from shared.contracts.letter import LETTER_QUEUES, Letter
from shared.messaging.connection import ANSWER_SECONDS, BROKER_ERRORS, answered, asked_to_stop, connected
from shared.messaging.consumer import delivery_of
from shared.runtime.process import Fatal


class NoQueue(Fatal):
    """The broker has no such queue: nothing has declared the topology there."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A letter in hand; it goes back unless it is acknowledged."""

    letter: Letter
    message: AbstractIncomingMessage

    async def acknowledge(self) -> None:
        """Let the broker forget the letter. Raises Unavailable; then it may be seen again."""
        with reaching_broker():
            await self.message.ack()


@dataclass(frozen=True, slots=True)
class Box:
    """One queue on a channel of its own; `waiting` is how many letters it held when it was opened."""

    name: str
    queue: AbstractQueue
    waiting: int

    async def letters(self) -> AsyncIterator[Taken]:
        """As many as there were when the box was opened: a requeued job may fail again and come after them.

        Nothing is kept here; whoever iterates holds one letter at a time. Raises Unavailable.
        """
        for _ in range(self.waiting):
            with reaching_broker():
                message = await self.queue.get(fail=False, timeout=ANSWER_SECONDS)
            if message is None:
                return
            yield Taken(Letter(self.name, delivery_of(message)), message)


class Boxes:
    """A connection to the broker, and its boxes one after the other."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Box]:
        """The box of this name (see LETTER_QUEUES); what was not acknowledged goes back at the end.

        Raises Unavailable, or NoQueue.
        """
        with reaching_broker():
            channel = self._connection.channel(publisher_confirms=False)
            await answered(channel.initialize())
            box = await _box(channel, name)
        try:
            yield box
        except BaseException:
            with suppress(*BROKER_ERRORS):
                await answered(channel.close())
            raise
        if channel.is_closed:
            raise Unavailable("broker", "The broker closed the channel: letters may be there again.")
        with reaching_broker():
            await answered(channel.close())  # its answer says that the broker has read all acknowledgements


@asynccontextmanager
async def open_boxes(url: str) -> AsyncIterator[Boxes]:
    """Raises Unavailable, or ValueError for a URL that cannot be read."""
    stack = AsyncExitStack()
    with reaching_broker():
        connection = await stack.enter_async_context(connected(url, name="pgferry-cli"))
    try:
        yield Boxes(connection)
    finally:
        with suppress(*BROKER_ERRORS):
            await stack.aclose()


async def _box(channel: AbstractChannel, name: str) -> Box:
    queue_name = LETTER_QUEUES[name].name
    try:
        queue = await channel.declare_queue(queue_name, passive=True, timeout=ANSWER_SECONDS)
    except aiormq.exceptions.ChannelNotFoundEntity as error:
        raise NoQueue(f"the broker has no queue {queue_name}; run: pgferry broker declare") from error
    return Box(name, queue, queue.declaration_result.message_count or 0)


@contextmanager
def reaching_broker() -> Iterator[None]:
    """Translate every way of losing the broker into `Unavailable`."""
    try:
        yield
    except asyncio.CancelledError as error:
        if asked_to_stop():
            raise
        raise Unavailable("broker", "The broker is lost: it closed the channel.") from error
    except BROKER_ERRORS as error:
        raise Unavailable("broker", f"The broker cannot be used: {type(error).__name__}: {error}") from error
