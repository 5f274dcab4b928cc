"""The control plane's database: pool, transactions, and what a transaction may touch.

Composition roots open it; use cases take it as a dependency. Whatever cannot reach the server raises
`Unavailable("database")`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import asyncpg

from shared.contracts.errors import Unavailable
from shared.storage.audit import Audit
from shared.storage.backups import Backups
from shared.storage.cancellations import Cancellations
from shared.storage.catalogues import Catalogues
from shared.storage.chats import Chats
from shared.storage.executor import CONNECTION_LOST, Executor
from shared.storage.jobs import Jobs
from shared.storage.lanes import Lanes
from shared.storage.nudges import DUMP, OUTBOX, UPLOAD, Nudges, cancel_of
from shared.storage.outbox import Outbox
from shared.storage.parts import Parts
from shared.storage.suspected import SuspectedSends

#: What passes by itself, or is mended by an operator while we wait: no way to the server, a server that
#: starts, stops, is a standby, is out of room or connections, ended our transaction, or refuses our login.
_PASSING = (
    *CONNECTION_LOST,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


#: A request that gets no connection for this long is better told so.
_ACQUIRE_SECONDS = 10.0
_CLOSE_SECONDS = 3.0


#: The control plane is not there yet, or is an older one.
_NOT_MIGRATED = (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)


@contextmanager
def reaching_database() -> Iterator[None]:
    """Translate every way of not reaching the server, or what we need on it, into `Unavailable`."""
    try:
        yield
    except _NOT_MIGRATED as error:
        raise Unavailable(
            "database",
            f"control_plane is not of this version ({error}); run: pgferry migrate",
            code="database_not_migrated",
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unavailable(
            "database",
            f"DATABASE_URL's role may not use control_plane ({error}): apply deploy/sql/roles.sql.",
            code="database_not_granted",
        ) from error
    except (*_PASSING, TimeoutError) as error:
        said = str(error) if isinstance(error, asyncpg.PostgresError) else type(error).__name__
        raise Unavailable("database", f"PostgreSQL is not reachable: {said}.") from error


@dataclass(slots=True)
class Transaction:
    """Everything one transaction may do; the messages it adds leave after its commit."""

    executor: Executor
    jobs: Jobs = field(init=False)
    cancellations: Cancellations = field(init=False)
    backups: Backups = field(init=False)
    parts: Parts = field(init=False)
    lanes: Lanes = field(init=False)
    suspected: SuspectedSends = field(init=False)
    catalogues: Catalogues = field(init=False)
    chats: Chats = field(init=False)
    outbox: Outbox = field(init=False)
    audit: Audit = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.executor)
        self.cancellations = Cancellations(self.executor)
        self.backups = Backups(self.executor)
        self.parts = Parts(self.executor)
        self.lanes = Lanes(self.executor)
        self.suspected = SuspectedSends(self.executor)
        self.catalogues = Catalogues(self.executor)
        self.chats = Chats(self.executor)
        self.outbox = Outbox(self.executor)
        self.audit = Audit(self.executor)


@dataclass(frozen=True, slots=True)
class Database:
    pool: asyncpg.Pool
    nudges: Nudges

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commit at the end of the block, roll back on any error; then wake whoever has work by it."""
        with reaching_database():
            async with self.pool.acquire(timeout=_ACQUIRE_SECONDS) as connection, connection.transaction():
                transaction = Transaction(connection)
                yield transaction
        self._nudge(transaction)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Transaction]:
        """The same repositories with each statement by itself: for reads and single statements."""
        with reaching_database():
            async with self.pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                transaction = Transaction(connection)
                yield transaction
        self._nudge(transaction)

    def _nudge(self, transaction: Transaction) -> None:
        if transaction.outbox.grew:
            self.nudges.send(OUTBOX)
        if transaction.jobs.waits_for_dump or transaction.cancellations.freed:
            self.nudges.send(DUMP)
        if transaction.jobs.waits_for_upload:
            self.nudges.send(UPLOAD)
        for job_id in transaction.cancellations.asked:
            self.nudges.send(cancel_of(job_id))


@asynccontextmanager
async def open_database(url: str, *, name: str, size: int = 10) -> AsyncIterator[Database]:
    """A pool that connects when first used, so a service starts while PostgreSQL is down.

    `name` is the application_name that operators see in pg_stat_activity.
    """
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size,
        timeout=10,
        command_timeout=30,
        init=_json_as_values,
        reset=_as_it_was,
        server_settings={
            "application_name": name,
            "timezone": "UTC",
            # a process that freezes between two statements must not keep what it locked from all others
            "idle_in_transaction_session_timeout": "30s",
        },
    )
    async with _closing_soon(pool):
        nudges = Nudges(url, pool)
        try:
            yield Database(pool, nudges)
        finally:
            await nudges.close()


@asynccontextmanager
async def _closing_soon(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Take leave of the server, unless it does not answer."""
    await pool
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()


async def _json_as_values(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def _as_it_was(_connection: asyncpg.Connection) -> None:
    """No statement here changes its session for longer than its transaction: asyncpg's own reset would be
    a second round trip for each first one, and a fifth of the server's time for a command.
    """
