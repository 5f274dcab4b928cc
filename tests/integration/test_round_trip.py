"""Whatever a schema holds comes back equal: generated ones, and a fixed one with one of everything."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Protocol

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from sandbox.compare import Comparison, compare_schemas
from sandbox.stack import allow_dump
from sandbox.tenants import create_everything
from tests.integration.edge_values import TYPES, WITHOUT_INPUT, quoted
from tests.integration.export_plant import REAL, Plant, plant_on, url_as
from tests.integration.generated_schemas import schemas
from tests.integration.jobs_in import copied_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from sandbox.postgres import PostgresServer

_KEY = re.compile(rb"^\\(un)?restrict .*\n", re.MULTILINE)

_PASSWORD = "reads-in-spite-of-policies"


class Make(Protocol):
    async def __call__(self, connection: asyncpg.Connection, *, slug: str) -> None:
        """Make the tenant's schema."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Makes a schema, exports it by the pipeline, restores it by the documented command, and compares."""

    plant: Plant
    source: str  #: URL of the database that the exporter reads, as its owner
    target: str
    _numbers: Iterator[int] = field(default_factory=count)

    async def __call__(self, make: Make) -> Comparison:
        """How the copy differs; what pg_dump says of both must be the same. Leaves neither schema behind."""
        slug = f"example-{next(self._numbers)}"
        schema = f"tenant_{slug}"
        copy = await asyncpg.connect(self.target)
        try:
            await make(self.plant.owner, slug=slug)
            await allow_dump(self.plant.owner, schema)
            await self._export(slug)
            source, target = await asyncio.gather(_dumped(self.source, schema), _dumped(self.target, schema))
            assert source == target
            return await compare_schemas(self.plant.owner, copy, schema=schema)
        finally:
            for connection in (self.plant.owner, copy):
                await connection.execute(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE")
            await copy.close()

    async def _export(self, slug: str) -> None:
        await self.plant.add_project(slug)
        claim = await self.plant.claim(slug)
        await self.plant.attempt(claim)
        self.plant.fetched(claim).restore_into(self.target)


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


async def _dumped(url: str, schema: str) -> bytes:
    """What pg_dump says, without the key that is new each time."""
    process = await asyncio.create_subprocess_exec(
        *[str(REAL), f"--dbname={url}", "--schema", quoted(schema), "--no-owner", "--no-privileges"],
        stdout=asyncio.subprocess.PIPE,
    )
    dump, _ = await process.communicate()
    assert process.returncode == 0
    return _KEY.sub(b"", dump)


@pytest.fixture(scope="module")
async def round_trip(
    postgres_server: PostgresServer,
    control_plane_template: str,
    role_passwords: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[RoundTrip]:
    """One exporter for all examples; its dump role reads tables with policies, too."""
    folder = tmp_path_factory.mktemp("round-trip")
    async with (
        copied_database(postgres_server, control_plane_template) as source,
        copied_database(postgres_server, "template1") as target,
        plant_on(source, folder, role_passwords) as plant,
    ):
        await plant.owner.execute(
            f"CREATE ROLE dump_all LOGIN BYPASSRLS IN ROLE pgferry_dump PASSWORD '{_PASSWORD}'"
        )
        plant.environment["TENANT_DATABASE_URL"] = url_as(source, "dump_all", _PASSWORD)
        yield RoundTrip(plant, source, target)
        await plant.owner.execute("DROP ROLE dump_all")


# An example takes a second: fewer than of others, and no search for a smaller one that fails, too.
@settings(
    max_examples=settings().max_examples // 12,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(statements=schemas())
async def test_a_generated_schema_comes_back_equal(
    round_trip: RoundTrip, statements: tuple[str, ...]
) -> None:
    """In rows, in definitions, and in what pg_dump says of it."""
    comparison = await round_trip(Statements(statements))

    assert comparison.differences == ()


EVERY_TYPE = [
    f"CREATE TABLE scalars ({', '.join(f'c{at} {type_.sql}' for at, type_ in enumerate(TYPES))})",
    f"CREATE TABLE arrays ({', '.join(f'c{at} {type_.arrays.sql}' for at, type_ in enumerate(TYPES))})",
    *(
        f"INSERT INTO {table} (c{at}) VALUES ({value})"
        for table, types in (("scalars", TYPES), ("arrays", [type_.arrays for type_ in TYPES]))
        for at, type_ in enumerate(types)
        for value in type_.values
    ),
]

#: What may be a column's type, arrays aside.
_BUILT_IN = """
    SELECT typname FROM pg_type
     WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
       AND oid NOT IN (SELECT typarray FROM pg_type) AND oid <> ALL($1::text[]::regtype[])
"""


async def test_every_built_in_type_comes_back_equal(round_trip: RoundTrip) -> None:
    """With the values at its edges, alone and in arrays; the server's catalog says which types there are."""
    left_out = await round_trip.plant.owner.fetch(_BUILT_IN, [type_.sql for type_ in TYPES])
    assert {name for (name,) in left_out} == WITHOUT_INPUT

    comparison = await round_trip(Statements(EVERY_TYPE))

    assert comparison.differences == ()


async def test_one_of_everything_comes_back_equal(round_trip: RoundTrip) -> None:
    """A fixed schema with what the generated ones have and what they hardly meet."""
    comparison = await round_trip(create_everything)

    assert comparison.differences == ()
    assert (comparison.tables, comparison.views) == (16, 5)
