"""Looks at the schema as it is now, from outside of the snapshot.

`services.exporter.export` asks before and after each dump. A session that was cut while it was silent is
replaced: a dump of half an hour is not thrown away for it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import structlog

from services.exporter.snapshot import Table, list_tables
from services.exporter.tenant import connect_tenant, speaking_to_tenant
from shared.contracts.errors import Failure, PermanentError
from shared.contracts.job import Claim
from shared.storage.executor import CONNECTION_LOST

log = structlog.get_logger(__name__)

_NAMES_SHOWN = 5
_END_SECONDS = 2.0
_CUT = (*CONNECTION_LOST, TimeoutError, asyncpg.OperatorInterventionError)

_IDENTITY = "SELECT oid::bigint, xmin::text FROM pg_catalog.pg_namespace WHERE nspname = $1"

_END_OLDER_SESSIONS = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000)
      FROM pg_catalog.pg_stat_activity
     WHERE usename = current_user AND pid <> pg_catalog.pg_backend_pid()
       AND starts_with(application_name, $1)
       AND split_part(application_name, ':', 3)::bigint < $2
"""

_END_SESSIONS = """
    SELECT pg_catalog.pg_terminate_backend(pid)
      FROM pg_catalog.pg_stat_activity
     WHERE usename = current_user AND pid <> pg_catalog.pg_backend_pid() AND application_name = $1
"""

# What pg_dump reads: the tables' rows and the sequences' values. What an extension owns is not dumped.
_UNREADABLE = """
    SELECT CASE c.relkind WHEN 'S' THEN 'sequence ' ELSE 'table ' END || c.relname AS name
      FROM pg_catalog.pg_class AS c
     WHERE c.relnamespace = $1::oid AND c.relkind IN ('r', 'p', 'S')
       AND NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                          AND d.deptype = 'e')
     ORDER BY c.relkind = 'S', c.relname
"""

# Of the tables whose rows are read: a partition is read by itself, where the parent's policies don't apply.
_HIDDEN = """
    SELECT 'table ' || c.relname AS name
      FROM pg_catalog.pg_class AS c
     WHERE c.relnamespace = $1::oid AND c.relkind = 'r' AND c.relrowsecurity
       AND pg_catalog.row_security_active(c.oid)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                          AND d.deptype = 'e')
     ORDER BY c.relname
"""

_USABLE = "SELECT pg_catalog.has_schema_privilege($1::oid, 'USAGE')"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which schema the name means: a renamed, replaced or altered one has another."""

    oid: int
    xmin: str


@dataclass(slots=True)
class Probe:
    """Each call sees the newest state."""

    url: str
    claim: Claim
    schema: str
    answer_seconds: float  #: how long the server may take for one answer
    _connection: asyncpg.Connection

    async def identity(self) -> Identity:
        """Raises PermanentError `schema_missing`."""
        found = await self._fetch(_IDENTITY, self.schema)
        if not found:
            raise PermanentError(
                "schema_missing",
                f"The database has no schema {self.schema!r}: create it, or correct the project's slug.",
            )
        return Identity(found[0]["oid"], found[0]["xmin"])

    async def require_readable(self, identity: Identity) -> None:
        """Raises PermanentError `permission_missing` or `row_security`, naming what the role may not read."""
        [usable] = await self._fetch(_USABLE, identity.oid)
        unreadable = [f"schema {self.schema}"] if not usable[0] else []
        unreadable += [name for (name,) in await self._fetch(_UNREADABLE, identity.oid)]
        if unreadable:
            raise PermanentError(
                "permission_missing",
                f"The dump role may not read {_few(unreadable)}: grant it as "
                "deploy/sql/read_tenants.sql does, then ask again.",
            )
        hidden = [name for (name,) in await self._fetch(_HIDDEN, identity.oid)]
        if hidden:
            raise PermanentError(
                "row_security",
                f"Row-level security hides rows of {_few(hidden)} from the dump role: "
                "ALTER ROLE … BYPASSRLS, then ask again.",
            )

    async def tables(self) -> list[Table]:
        return await list_tables(self._fetch, self.schema)

    async def end_older_sessions(self) -> int:
        """Terminate server sessions that earlier fences of this job left; returns how many."""
        prefix = self.claim.application_name.rpartition(":")[0] + ":"
        return len(await self._fetch(_END_OLDER_SESSIONS, prefix, self.claim.fence))

    async def end_sessions(self) -> None:
        """Terminate the attempt's other sessions: one that counts or waits would not see that we are gone."""
        with contextlib.suppress(Failure, TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self._fetch(_END_SESSIONS, self.claim.application_name)

    def close(self) -> None:
        self._connection.terminate()

    async def _fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask; once more on a new session if the old one is cut."""
        with speaking_to_tenant():
            try:
                return list(await self._connection.fetch(query, *arguments))
            except _CUT as error:
                log.info("the probe's session is cut; it connects again", reason=type(error).__name__)
        self.close()
        self._connection = await connect_tenant(
            self.url, self.claim.application_name, answer_seconds=self.answer_seconds
        )
        with speaking_to_tenant():
            return list(await self._connection.fetch(query, *arguments))


@asynccontextmanager
async def probing(url: str, claim: Claim, schema: str, *, answer_seconds: float) -> AsyncIterator[Probe]:
    """A probe for the attempt; when that fails or is cancelled, its server sessions are ended."""
    connection = await connect_tenant(url, claim.application_name, answer_seconds=answer_seconds)
    probe = Probe(url, claim, schema, answer_seconds, connection)
    try:
        yield probe
    except BaseException:
        await probe.end_sessions()
        raise
    finally:
        probe.close()


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
