"""One connection to the broker for the time of a block, what losing it looks like, and how long it may take.

The library waits for ever for a broker that is frozen, or that nothing reaches any more: in here every call
that awaits the broker has its time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import aio_pika
from aio_pika.abc import AbstractConnection

#: A frozen broker is noticed after about three heartbeats; `?heartbeat=` in AMQP_URL says otherwise.
HEARTBEAT_SECONDS = 15
CONNECT_SECONDS = 10.0
#: For opening a channel, declaring, consuming: a queue without a leader answers after a minute, or never.
ANSWER_SECONDS = 30.0
CLOSE_SECONDS = 3.0
_LOOK_SECONDS = 1.0

#: Whatever aio-pika raises when the broker is away, refuses or hangs up: its own list, which holds
#: RuntimeError because a closed channel is one (ChannelInvalidStateError).
BROKER_ERRORS = (*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError)

Answer = TypeVar("Answer")


@asynccontextmanager
async def connected(url: str, *, name: str) -> AsyncIterator[AbstractConnection]:
    """A plain connection; `name` is what operators see in the broker's list."""
    connection = await answered(_connect(url, name), seconds=CONNECT_SECONDS)
    try:
        yield connection
    finally:
        await _closed(connection)


async def answered(call: Awaitable[Answer], *, seconds: float | None = None) -> Answer:
    """Raises TimeoutError, even where the library goes on waiting after it was cancelled, and ConnectionError
    when the connection is lost meanwhile, of which the library tells by a cancellation.
    """
    seconds = seconds or ANSWER_SECONDS
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            task.add_done_callback(_forget)
            task.cancel()
    if not done:
        raise TimeoutError(f"the broker did not answer within {seconds:g} s")
    if task.cancelled():
        raise ConnectionError("the connection was lost before the broker answered")
    return task.result()


def asked_to_stop() -> bool:
    """Tell a cancellation of our own from that of a call whose connection died."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def gone(connection: AbstractConnection) -> None:
    """Return when the connection is lost; its own `closed` tells only of our closing."""
    while connection.connected.is_set():  # noqa: ASYNC110 - the library's event is set, not cleared, for waiters
        await asyncio.sleep(_LOOK_SECONDS)


async def _connect(url: str, name: str) -> AbstractConnection:
    own = "heartbeat" in parse_qs(urlsplit(url).query)
    return await aio_pika.connect(
        url,
        timeout=CONNECT_SECONDS,
        heartbeat=None if own else HEARTBEAT_SECONDS,
        client_properties={"connection_name": name, "product": "pgferry"},
    )


async def _closed(connection: AbstractConnection) -> None:
    """Say goodbye; a frozen broker does not answer even that."""
    closing = asyncio.ensure_future(connection.close())
    closing.add_done_callback(_forget)
    await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    closing.cancel()


def _forget(task: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more; asyncio would complain that nobody looked."""
    if not task.cancelled():
        task.exception()
