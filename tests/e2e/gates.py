"""Where a test catches a service at a named moment, by what PostgreSQL offers anybody: locks and commits.

A process that waits at a gate is killed right there, however fast or slow the machine is. Nothing in the
services knows of this.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from sandbox.held_commits import WAITS_FOR_STANDBY
from tests.e2e import steps

_WAITING = """
    SELECT pid, usename FROM pg_stat_activity
     WHERE datname = current_database() AND usename LIKE $3 AND query LIKE $2
       AND $1 IN (wait_event_type, wait_event)
"""
_HAS_LOCK = "SELECT granted FROM pg_locks WHERE pid = $1 AND relation = $2::regclass"


class Gate(StrEnum):
    LOCK = "Lock"  #: the statement waits for somebody's lock
    COMMIT = WAITS_FOR_STANDBY  #: the statement is done, and its commit waits (`commits_held`)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A server session of a service that waits at a gate."""

    pid: int
    service: str


async def waiting(
    connection: asyncpg.Connection, gate: Gate, statement: str, *, service: str = "%"
) -> Waiting:
    """A service's session that waits at this gate with a statement that contains this text."""
    found: list[asyncpg.Record] = []

    async def waits() -> bool:
        found[:] = await connection.fetch(_WAITING, gate, f"%{statement}%", f"pgferry_{service}")
        return bool(found)

    await steps.until(waits, f"a service waits with {statement}")
    return Waiting(found[0]["pid"], found[0]["usename"].removeprefix("pgferry_"))


@asynccontextmanager
async def locked(url: str, table: str, *, mode: str = "SHARE ROW EXCLUSIVE") -> AsyncIterator[None]:
    """Nobody else writes to the table (or, in another mode, reads it) during the block."""
    async with _session(url) as connection:
        await connection.execute(f"BEGIN; LOCK TABLE {table} IN {mode} MODE")
        yield


@asynccontextmanager
async def locked_after(url: str, table: str) -> AsyncIterator[None]:
    """As `locked`, but from the end of the transaction that writes to the table now: the lock is queued
    behind that one, and before whoever comes next.
    """
    async with _session(url) as connection, _session(url) as observer:
        await connection.execute("BEGIN")
        pid = connection.get_server_pid()
        queueing = asyncio.create_task(connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))

        async def queued() -> bool:
            return await observer.fetchval(_HAS_LOCK, pid, table) is False

        try:
            await steps.until(queued, f"the lock of {table} is asked for")
            yield
        finally:
            connection.terminate()
            await asyncio.gather(queueing, return_exceptions=True)


@asynccontextmanager
async def claims_held(url: str) -> AsyncIterator[None]:
    """Exporters cannot claim during the block: what they take first for a claim is taken."""
    async with _session(url) as connection:
        await connection.execute("SELECT pg_advisory_lock(3, 0)")
        yield


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()
