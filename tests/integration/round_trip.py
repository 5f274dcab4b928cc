"""A round trip: a schema is made, exported by the pipeline, restored by the documented command, compared."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncpg

from sandbox.compare import Comparison, compare_schemas
from sandbox.stack import allow_dump
from shared.contracts.job import Claim, Format
from tests.integration.edge_values import quoted
from tests.integration.export_plant import REAL, Plant, url_as

_KEY = re.compile(rb"^\\(un)?restrict .*\n", re.MULTILINE)

_PASSWORD = "reads-in-spite-of-policies"

#: A server without a control plane has no dump role yet.
_ROLES = f"""
    DO $$ BEGIN
        CREATE ROLE pgferry_dump;
    EXCEPTION WHEN duplicate_object THEN NULL;
    END $$;
    CREATE ROLE dump_all LOGIN BYPASSRLS IN ROLE pgferry_dump PASSWORD '{_PASSWORD}'
"""


class Make(Protocol):
    async def __call__(self, connection: asyncpg.Connection, *, slug: str) -> None:
        """Make the tenant's schema."""


@dataclass(frozen=True, slots=True)
class Statements:
    """Make a tenant of these statements, as those of `sandbox.tenants` are made."""

    statements: Sequence[str]

    async def __call__(self, connection: asyncpg.Connection, *, slug: str) -> None:
        schema = quoted(f"tenant_{slug}")
        async with connection.transaction():
            await connection.execute(f"CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}")
            for statement in self.statements:
                await connection.execute(statement)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """From one database to another one, by way of a spool."""

    plant: Plant
    owner: asyncpg.Connection  #: of the database that the exporter reads
    source: str  #: the URL of that database
    target: str
    programs: Path  #: the folder of the pg_dump that describes both

    async def __call__(self, make: Make, form: Format = Format.SQL) -> Comparison:
        """How the copy differs; what pg_dump says of both must be the same."""
        async with self.exported(make, archive=form) as claim, self.copy() as copy:
            self.plant.fetched(claim).restore_into(self.target)
            return await self.compared(copy, claim)

    @asynccontextmanager
    async def exported(
        self, make: Make, *, archive: Format = Format.SQL, **settings: str
    ) -> AsyncIterator[Claim]:
        """Make a tenant and dump it; it is gone at the end of the block."""
        slug = f"example-{secrets.token_hex(6)}"
        try:
            await make(self.owner, slug=slug)
            await allow_dump(self.owner, f"tenant_{slug}")
            await self.plant.add_project(slug)
            claim = await self.plant.claim(slug, format=archive)
            await self.plant.attempt(claim, **settings)
            yield claim
        finally:
            await self.owner.execute(f'DROP SCHEMA IF EXISTS "tenant_{slug}" CASCADE')

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[asyncpg.Connection]:
        """The target, which is empty again at the end of the block."""
        connection = await asyncpg.connect(self.target)
        try:
            yield connection
        finally:
            for (schema,) in await connection.fetch(
                "SELECT quote_ident(nspname) FROM pg_namespace WHERE starts_with(nspname, 'tenant_')"
            ):
                await connection.execute(f"DROP SCHEMA {schema} CASCADE")
            await connection.close()

    async def compared(self, copy: asyncpg.Connection, claim: Claim) -> Comparison:
        schema = self.plant.prefix(claim).read_dump().schema_name
        source, target = await asyncio.gather(
            *(self._dumped(url, schema) for url in (self.source, self.target))
        )
        assert source == target
        return await compare_schemas(self.owner, copy, schema=schema)

    async def _dumped(self, url: str, schema: str) -> bytes:
        """What pg_dump says, without the key that is new each time."""
        process = await asyncio.create_subprocess_exec(
            *[str(self.programs / "pg_dump"), f"--dbname={url}", "--schema", quoted(schema)],
            *["--no-owner", "--no-privileges"],
            stdout=asyncio.subprocess.PIPE,
        )
        dump, _ = await process.communicate()
        assert process.returncode == 0
        return _KEY.sub(b"", dump)


@asynccontextmanager
async def round_trip_between(
    source: str, target: str, plant: Plant, *, programs: Path = REAL.parent
) -> AsyncIterator[RoundTrip]:
    """The plant's exporter reads the source, by a role that policies don't bind."""
    owner = await asyncpg.connect(source)
    await owner.execute(_ROLES)
    before = dict(plant.environment)
    plant.environment["TENANT_DATABASE_URL"] = url_as(source, "dump_all", _PASSWORD)
    try:
        yield RoundTrip(plant, owner, source, target, programs)
    finally:
        plant.environment.update(before)
        await owner.execute("DROP ROLE dump_all")
        await owner.close()
