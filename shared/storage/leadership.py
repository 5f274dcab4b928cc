"""One leader for each duty: an advisory lock, held for one round by a session of its own.

`shared.runtime.reconciler` asks before each round. Key spaces of advisory locks: 1 requests of a project
(kept free: unique indexes decide), 2 export against restore, 3 claims that are counted, 4 duties.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import asyncpg

from shared.runtime.reconciler import Round
from shared.storage.database import reaching_database

_TRY = "SELECT pg_try_advisory_lock(4, hashtext($1))"
_ANSWER_SECONDS = 10.0
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Leadership:
    """The port `Lead`, fulfilled.

    A leader says each third of `silence_seconds` that it is there; the server ends the session of one that
    does not, frozen or cut off, and with the session the lock.
    """

    url: str = field(repr=False)
    silence_seconds: float = 30.0

    async def __call__(self, duty: str, work: Round) -> Mapping[str, int] | None:
        async with self._session() as session:
            with reaching_database():
                leads = await session.fetchval(_TRY, duty)
            return await self._while_leading(session, work) if leads else None

    async def _while_leading(self, session: asyncpg.Connection, work: Round) -> Mapping[str, int]:
        working = asyncio.ensure_future(work())
        leading = asyncio.create_task(self._go_on_leading(session))
        try:
            await asyncio.wait([working, leading], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                leading.result()
            return working.result()
        finally:
            for task in (working, leading):
                task.cancel()
            await asyncio.gather(working, leading, return_exceptions=True)

    async def _go_on_leading(self, session: asyncpg.Connection) -> NoReturn:
        """Raises when the session, and the lock with it, is lost."""
        ended = asyncio.Event()
        session.add_termination_listener(lambda _session: ended.set())
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.silence_seconds / 3):
                    await ended.wait()
            with reaching_database():
                await session.execute("SELECT 1")

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncpg.Connection]:
        with reaching_database():
            session = await asyncpg.connect(
                self.url,
                timeout=_ANSWER_SECONDS,
                command_timeout=_ANSWER_SECONDS,
                server_settings={
                    "application_name": "pgferry-reconciler",
                    "idle_session_timeout": f"{round(self.silence_seconds * 1000)}",
                },
            )
        try:
            yield session
        finally:
            with contextlib.suppress(Exception):
                await session.close(timeout=_CLOSE_SECONDS)
