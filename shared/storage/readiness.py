"""Whether PostgreSQL answers: what a service reports as ready. Without it none can do anything, without the
broker each can: jobs are in PostgreSQL, and `pgferry_amqp_connected` says how the broker is.
"""

import asyncio
from dataclasses import dataclass

from shared.contracts.errors import Unavailable
from shared.storage.database import Database

PROBE_SECONDS = 2.0
_TIMEOUT_SECONDS = 5.0


@dataclass(slots=True)
class DatabaseProbe:
    """`answers` is what `/readyz` reports: at most a probe's time and timeout old."""

    database: Database
    answers: bool = False

    async def run(self) -> None:
        while True:
            self.answers = await self._ask()
            await asyncio.sleep(PROBE_SECONDS)

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS), self.database.session() as session:
                await session.executor.fetchval("SELECT 1")
        except (Unavailable, TimeoutError):
            return False
        return True
