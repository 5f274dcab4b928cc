"""Keeps a connection to the broker: connect, declare, work, and again after it was lost.

Composition roots run one session for publishing and one for consuming.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from aio_pika.abc import AbstractConnection

from shared.messaging.connection import BROKER_ERRORS, connected
from shared.messaging.declare import declare
from shared.runtime.backoff import backoff
from shared.runtime.metrics import AMQP_CONNECTED
from shared.runtime.outage import Outage

#: The waits go on growing for a broker that is lost again sooner than this.
STEADY_SECONDS = 30.0


class BrokerLost(Exception):
    """The connection or channel is gone, or the broker took the consumer away: begin anew."""


class Session:
    """One kept connection; `connected`, and its metric, say whether it is up now."""

    def __init__(self, url: str, *, service: str, purpose: str) -> None:
        self._url = url
        self._name = f"pgferry-{service}-{purpose}"
        self._outage = Outage(f"broker ({purpose})")
        self._gauge = AMQP_CONNECTED.labels(purpose)
        self.connected = False

    async def run(self, work: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        """Do `work` on a connection, for ever; a lost broker costs a wait, never the process.

        Raises TopologyMismatch: waiting does not mend that.
        """
        waits = backoff()
        while True:
            began_at = time.monotonic()
            try:
                async with connected(self._url, name=self._name) as connection:
                    await declare(connection)
                    self._set(connected=True)
                    await work(connection)
            except (*BROKER_ERRORS, BrokerLost) as error:
                if time.monotonic() > began_at + STEADY_SECONDS:
                    waits = backoff()
                self._outage.goes_on(f"{type(error).__name__}: {error}")
            finally:
                self._set(connected=False)
            await asyncio.sleep(next(waits))

    def _set(self, *, connected: bool) -> None:
        self.connected = connected
        self._gauge.set(int(connected))
        if connected:
            self._outage.ended()
