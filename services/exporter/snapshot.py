"""One consistent view of a tenant's schema, held while the dump runs.

`hold_snapshot` locks the tables first and takes the snapshot after, on one connection; `Probe` looks at
the schema from outside of it. Errors of the tenant's server become failures with a name here.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from shared.contracts.errors import PermanentError, TemporaryError, Unavailable
from shared.contracts.job import Claim
from shared.storage.executor import CONNECTION_LOST

#: Key space of the advisory lock that keeps a restore and an export of one project apart.
EXPORT_AGAINST_RESTORE = 2

_IDENTITY = "SELECT oid::bigint, xmin::text FROM pg_catalog.pg_namespace WHERE nspname = $1"

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

_LOCK_PROJECT = "SELECT pg_catalog.pg_try_advisory_lock_shared($1, pg_catalog.hashtext($2))"

# Not now(): that is when the transaction began, before it waited for the locks.
_EXPORT_SNAPSHOT = """
    SELECT pg_catalog.pg_export_snapshot() AS id, pg_catalog.statement_timestamp() AS taken_at
"""

_END_OLDER_SESSIONS = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000)
      FROM pg_catalog.pg_stat_activity
     WHERE usename = current_user AND pid <> pg_catalog.pg_backend_pid()
       AND starts_with(application_name, $1)
       AND split_part(application_name, ':', 3)::bigint < $2
"""


@dataclass(frozen=True, slots=True)
class Table:
    oid: int
    name: str
    has_rows: bool  #: False for a partitioned parent: its rows are its partitions'
    of_extension: bool  #: belongs to an extension, so `pg_dump -n` leaves it out


@dataclass(frozen=True, slots=True)
class Identity:
    """Which schema the name means: a renamed, replaced or altered one has another."""

    oid: int
    xmin: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Looks at the schema as it is now; each call sees the newest state."""

    connection: asyncpg.Connection
    schema: str

    async def identity(self) -> Identity:
        """Raises PermanentError `schema_missing`."""
        record = await self.connection.fetchrow(_IDENTITY, self.schema)
        if record is None:
            raise PermanentError(
                "schema_missing", f"The database has no schema {self.schema!r} that this user can see."
            )
        return Identity(record["oid"], record["xmin"])

    async def tables(self) -> list[Table]:
        return await _tables(self.connection, self.schema)

    async def end_older_sessions(self, claim: Claim) -> int:
        """Terminate server sessions that earlier fences of this job left; returns how many."""
        prefix = claim.application_name.rpartition(":")[0] + ":"
        return len(await self.connection.fetch(_END_OLDER_SESSIONS, prefix, claim.fence))


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
async def open_tenant(url: str, claim: Claim) -> AsyncIterator[asyncpg.Connection]:
    """A session marked with job and fence. Raises Unavailable when the server is not reached."""
    with speaking_to_tenant():
        connection = await asyncpg.connect(
            url,
            timeout=10,
            server_settings={
                "application_name": claim.application_name,
                "search_path": "pg_catalog",
                "idle_session_timeout": "0",  # a probe says nothing for as long as the dump takes
            },
        )
    try:
        yield connection
    finally:
        connection.terminate()


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
        seen = await _tables(connection, schema)
    if seen != list(tables):
        raise TemporaryError("tables_changed", "Tables were made or dropped while the dump began.")
    yield Snapshot(connection, schema, exported["id"], exported["taken_at"], seen)


@contextmanager
def speaking_to_tenant() -> Iterator[None]:
    """Give the tenant server's errors their names."""
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise TemporaryError("lock_timeout", "A table was locked by somebody else for too long.") from error
    except asyncpg.DeadlockDetectedError as error:
        raise TemporaryError("deadlock", "Somebody altered several tables while we locked them.") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise PermanentError(
            "permission_missing", f"The dump role may not read everything: {error}."
        ) from error
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise TemporaryError("tables_changed", "Tables were dropped or renamed meanwhile.") from error
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise PermanentError("login_refused", "The tenant database refused the dump role's login.") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise PermanentError("database_missing", "The tenant database does not exist.") from error
    except (*CONNECTION_LOST, TimeoutError) as error:
        raise _unreachable(error) from error
    except (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError) as error:
        raise _unreachable(error) from error
    except asyncpg.OperatorInterventionError as error:
        raise TemporaryError("server_gone", f"The tenant server ended our session: {error}.") from error


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


async def _tables(connection: asyncpg.Connection, schema: str) -> list[Table]:
    return [Table(**record) for record in await connection.fetch(_TABLES, schema)]


def _unreachable(error: BaseException) -> Unavailable:
    return Unavailable("tenant_database", f"The tenant database is not reachable: {type(error).__name__}.")
