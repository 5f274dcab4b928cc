"""Keeps a connection to the broker: connect, declare, work, and again after it was lost.

Composition roots run one session for publishing and one for consuming.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aio_pika.abc import AbstractConnection

from shared.messaging.connection import BROKER_ERRORS, connected
from shared.messaging.declare import declare
from shared.runtime.backoff import backoff
from shared.runtime.metrics import AMQP_CONNECTED

log = structlog.get_logger(__name__)


class BrokerLost(Exception):
    """The connection or channel is gone, or the broker took the consumer away: begin anew."""


class Session:
    """One kept connection; `connected`, and its metric, say whether it is up now."""

    def __init__(self, url: str, *, service: str, purpose: str) -> None:
        self._url = url
        self._name = f"pgferry-{service}-{purpose}"
        self._gauge = AMQP_CONNECTED.labels(purpose)
        self.connected = False

    async def run(self, work: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        """Do `work` on a connection, for ever; a lost broker costs a wait, never the process.

        Raises TopologyMismatch: waiting does not mend that.
        """
        waits = backoff()
        while True:
            try:
                async with connected(self._url, name=self._name) as connection:
                    await declare(connection)
                    self._set(connected=True)
                    waits = backoff()
                    await work(connection)
            except (*BROKER_ERRORS, BrokerLost) as error:
                log.warning("no broker", connection=self._name, reason=f"{type(error).__name__}: {error}")
            finally:
                self._set(connected=False)
            await asyncio.sleep(next(waits))

    def _set(self, *, connected: bool) -> None:
        self.connected = connected
        self._gauge.set(int(connected))
