"""Gives the relay the outbox, one short database session at a time."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from shared.storage.database import Database
from shared.storage.outbox import Outbox


def outbox_of(database: Database) -> Callable[[], AbstractAsyncContextManager[Outbox]]:
    @asynccontextmanager
    async def session() -> AsyncIterator[Outbox]:
        async with database.session() as opened:
            yield opened.outbox

    return session
