"""Whether PostgreSQL answers and has a control plane: what a service reports as ready.

Without it none can do anything, without the broker each can: jobs are in PostgreSQL, and
`pgferry_amqp_connected` says how the broker is.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial

from shared.contracts.errors import Unavailable
from shared.runtime.outage import Outage
from shared.storage.database import Database, reaching_database

PROBE_SECONDS = 2.0
_TIMEOUT_SECONDS = 5.0


@dataclass(slots=True)
class DatabaseProbe:
    """`answers` is what `/readyz` reports: at most a probe's time and timeout old."""

    database: Database
    answers: bool = False
    outage: Outage = field(default_factory=partial(Outage, "database"))

    async def run(self) -> None:
        while True:
            try:
                await self.ask()
            except Unavailable as error:
                self.answers = False
                self.outage.goes_on(error.sentence)
            else:
                self.answers = True
                self.outage.ended()
            await asyncio.sleep(PROBE_SECONDS)

    async def ask(self) -> None:
        """Raises Unavailable when the server cannot be reached or has no control plane."""
        with reaching_database():
            async with asyncio.timeout(_TIMEOUT_SECONDS), self.database.session() as session:
                await session.executor.execute("SELECT FROM control_plane.jobs LIMIT 0")
