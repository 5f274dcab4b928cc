"""One consistent view of a tenant's schema, held while the dump runs.

`hold_snapshot` locks the tables first and takes the snapshot after, on one connection.
`services.exporter.export` holds it; `services.exporter.probe` looks at the schema from outside of it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from services.exporter.tenant import speaking_to_tenant
from shared.contracts.errors import TemporaryError
from shared.contracts.job import Claim

#: Key space of the advisory lock that keeps a restore and an export of one project apart.
EXPORT_AGAINST_RESTORE = 2

_TABLES = """
    SELECT c.oid::bigint AS oid, c.relname AS name, c.relkind = 'r' AS has_rows,
           EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e') AS of_extension
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
     ORDER BY c.relname
"""

Fetch = Callable[..., Awaitable[Iterable[asyncpg.Record]]]

_LOCK_PROJECT = "SELECT pg_catalog.pg_try_advisory_lock_shared($1, pg_catalog.hashtext($2))"

# Not now(): that is when the transaction began, before it waited for the locks.
_EXPORT_SNAPSHOT = """
    SELECT pg_catalog.pg_export_snapshot() AS id, pg_catalog.statement_timestamp() AS taken_at
"""


@dataclass(frozen=True, slots=True)
class Table:
    oid: int
    name: str
    has_rows: bool  #: False for a partitioned parent: its rows are its partitions'
    of_extension: bool  #: belongs to an extension, so `pg_dump -n` leaves it out


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An open transaction; what it sees does not change until the block of `hold_snapshot` ends."""

    connection: asyncpg.Connection
    schema: str
    id: str  #: for `pg_dump --snapshot`
    taken_at: datetime
    tables: Sequence[Table]

    @property
    def dumped(self) -> list[Table]:
        """The tables whose rows the dump must hold."""
        return [table for table in self.tables if table.has_rows and not table.of_extension]

    async def count_rows(self) -> dict[str, int]:
        """Rows of each dumped table, children not included."""
        with speaking_to_tenant():
            return {
                table.name: await self.connection.fetchval(
                    f"SELECT count(*) FROM ONLY {qualified(self.schema, table.name)}"  # noqa: S608 - quoted
                )
                for table in self.dumped
            }


@asynccontextmanager
async def hold_snapshot(
    connection: asyncpg.Connection,
    claim: Claim,
    *,
    schema: str,
    tables: Sequence[Table],
    lock_seconds: float,
    dump_seconds: float,
) -> AsyncIterator[Snapshot]:
    """Lock `tables`, then take the snapshot, and hold both for the block.

    The lock comes first, because any query before it would take the snapshot: a TRUNCATE in between
    would then empty the dump and the count alike. Raises TemporaryError `tables_changed` when the schema
    has other tables by then.
    """
    with speaking_to_tenant():
        await _keep_restores_away(connection, claim)
        await connection.execute(_begin(lock_seconds, dump_seconds))
        if own := [table for table in tables if not table.of_extension]:
            names = ", ".join(f"ONLY {qualified(schema, table.name)}" for table in own)
            await connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")
        [exported] = await connection.fetch(_EXPORT_SNAPSHOT)
        seen = await list_tables(connection.fetch, schema)
    if seen != list(tables):
        raise TemporaryError("tables_changed", "Tables were made or dropped while the dump began.")
    yield Snapshot(connection, schema, exported["id"], exported["taken_at"], seen)


def qualified(schema: str, table: str) -> str:
    return f"{_quoted(schema)}.{_quoted(table)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _begin(lock_seconds: float, dump_seconds: float) -> str:
    """SETs take no snapshot, so they may stand before the lock."""
    return f"""
        BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
        SET LOCAL lock_timeout = {round(lock_seconds * 1000)};
        SET LOCAL statement_timeout = {round(dump_seconds * 1000)};
        SET LOCAL idle_in_transaction_session_timeout = {round(dump_seconds * 1000)};
        SET LOCAL row_security = off
    """


async def _keep_restores_away(connection: asyncpg.Connection, claim: Claim) -> None:
    if not await connection.fetchval(_LOCK_PROJECT, EXPORT_AGAINST_RESTORE, claim.project_id):
        raise TemporaryError("restore_running", "A restore of this project is running.")


async def list_tables(fetch: Fetch, schema: str) -> list[Table]:
    """As whoever fetches sees them."""
    return [Table(**record) for record in await fetch(_TABLES, schema)]
