"""Holds the commits of services at a moment that nothing else shows: done on the server, and not answered.

End-to-end tests and chaos runs kill a service there. It is what PostgreSQL offers anybody: a commit may wait
for a standby, here for one that does not exist.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

#: What a session that waits says in `pg_stat_activity.wait_event`.
WAITS_FOR_STANDBY: Final = "SyncRep"

_POLL_SECONDS: Final = 0.005
_WRITE: Final = "SELECT pg_logical_emit_message(true, 'pgferry-test', 'a commit that waits')"
_WAITS_FOR: Final = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1"


async def let_commits_be_held(connection: asyncpg.Connection, roles: Sequence[str]) -> None:
    """From now on commits of these roles in this database can be held, and nobody else's."""
    name = await connection.fetchval("SELECT quote_ident(current_database())")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = local")
    await connection.execute("SET synchronous_commit = local")
    for role in roles:
        await connection.execute(f"ALTER ROLE {role} IN DATABASE {name} SET synchronous_commit = on")


@asynccontextmanager
async def commits_held(url: str) -> AsyncIterator[None]:
    """Commits of services are on the server's disk, but neither seen nor answered before the end of the
    block.
    """
    connection, witness = await asyncpg.connect(url), await asyncpg.connect(url)
    over = asyncio.Event()
    try:
        await witness.execute("SET synchronous_commit = on")
        writing = asyncio.create_task(_write_until(over, witness))
        try:
            await _set_standby(connection, "nobody")
            pid = witness.get_server_pid()
            while await connection.fetchval(_WAITS_FOR, pid) != WAITS_FOR_STANDBY:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
            yield
        finally:
            over.set()
            await _set_standby(connection, "")
            await writing
    finally:
        connection.terminate()
        witness.terminate()


async def _write_until(over: asyncio.Event, witness: asyncpg.Connection) -> None:
    """One commit after the other: when one waits, the server has taken up the setting."""
    while not over.is_set():
        await witness.execute(_WRITE)
        await asyncio.sleep(_POLL_SECONDS)


async def _set_standby(connection: asyncpg.Connection, name: str) -> None:
    await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    await connection.execute("SELECT pg_reload_conf()")
