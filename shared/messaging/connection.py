"""One connection to the broker for the time of a block, and the errors of losing it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractConnection

#: A frozen broker is noticed after about three heartbeats.
HEARTBEAT_SECONDS = 15
CONNECT_SECONDS = 10.0

#: Whatever aio-pika raises when the broker is away, refuses or hangs up: its own list, which holds
#: RuntimeError because a closed channel is one (ChannelInvalidStateError).
BROKER_ERRORS = (*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError)


@asynccontextmanager
async def connected(url: str, *, name: str) -> AsyncIterator[AbstractConnection]:
    """A plain connection; `name` is what operators see in the broker's list."""
    connection = await aio_pika.connect(
        url,
        timeout=CONNECT_SECONDS,
        heartbeat=HEARTBEAT_SECONDS,
        client_properties={"connection_name": name, "product": "pgferry"},
    )
    try:
        yield connection
    finally:
        await connection.close()
