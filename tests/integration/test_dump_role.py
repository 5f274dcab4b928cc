"""The role that dumps may read every tenant, and change nothing; the SQL for it is what an operator runs."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sandbox.postgres import newest_bin_directory
from sandbox.stack import REPOSITORY
from sandbox.tenants import create_demo_tenant, create_entangled_tenant, create_neighbour, create_small_tenant
from shared.contracts.errors import PermanentError
from tests.integration.export_plant import Plant, plant_on
from tests.integration.jobs_in import copied_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sandbox.postgres import PostgresServer

SQL = REPOSITORY / "deploy" / "sql"
MIGRATOR = "Migrator's"

FORGET_DEFAULTS = """
    ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM pgferry_dump;
    ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM pgferry_dump;
    ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM pgferry_dump;
"""


@pytest.fixture(scope="module")
async def home(postgres_server: PostgresServer, control_plane_template: str) -> AsyncIterator[str]:
    """The URL of one database for all tests here: each leaves it empty."""
    async with copied_database(postgres_server, control_plane_template) as url:
        await run_sql(url, "dump_role.sql")
        yield url


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    async with plant_on(home, tmp_path, role_passwords) as plant:
        yield plant


@pytest.fixture
async def migrator(plant: Plant, home: str) -> AsyncIterator[asyncpg.Connection]:
    """A platform's role, which makes tenants and migrates them."""
    await plant.owner.execute(f'CREATE ROLE "{MIGRATOR}"')
    database = await plant.owner.fetchval("SELECT quote_ident(current_database())")
    await plant.owner.execute(f'GRANT CREATE ON DATABASE {database} TO "{MIGRATOR}"')
    session = await asyncpg.connect(home)
    await session.execute(f'SET ROLE "{MIGRATOR}"')
    yield session
    await session.close()
    await plant.owner.execute(f'DROP OWNED BY "{MIGRATOR}" CASCADE; DROP ROLE "{MIGRATOR}"')


async def run_sql(url: str, name: str, **variables: str) -> None:
    """As an operator does."""
    settings = [f"--set={key}={value}" for key, value in {"ON_ERROR_STOP": "1", **variables}.items()]
    done = await asyncio.to_thread(
        subprocess.run,
        [str(newest_bin_directory() / "psql"), "-X", "-q", *settings, "-f", str(SQL / name), url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_every_tenant_can_be_dumped(plant: Plant, home: str) -> None:
    """Those that are there when the SQL is run, whatever is in them."""
    slugs = ["demo", "neighbour", "small", "entangled", "empty"]
    await create_demo_tenant(plant.owner, slug="demo", megabytes=0)
    await create_neighbour(plant.owner, slug="neighbour")
    await create_small_tenant(plant.owner, slug="small", rows=3)
    await create_entangled_tenant(plant.owner, slug="entangled")
    await plant.owner.execute("CREATE SCHEMA tenant_empty; ALTER ROLE pgferry_dump BYPASSRLS")
    for slug in slugs:
        await plant.add_project(slug)

    await run_sql(home, "read_tenants.sql", migrator="postgres")
    await run_sql(home, "read_tenants.sql", migrator="postgres")

    for slug in slugs:
        claim = await plant.claim(slug)
        await plant.attempt(claim)
        assert plant.prefix(claim).read_dump().schema_name == f"tenant_{slug}"
    await plant.owner.execute(
        """
        ALTER ROLE pgferry_dump NOBYPASSRLS;
        DROP PUBLICATION entangled_tables, entangled_schema;
        SELECT lo_unlink(oid) FROM pg_largeobject_metadata
        """
    )
    await plant.owner.execute(FORGET_DEFAULTS)


async def test_what_migrations_make_later_stays_readable(
    plant: Plant, home: str, migrator: asyncpg.Connection
) -> None:
    """A new table with its sequence, and a whole new tenant, by the role whose default privileges say so."""
    await migrator.execute("CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.first (id serial)")
    await run_sql(home, "read_tenants.sql", migrator=MIGRATOR)

    await migrator.execute(
        "CREATE TABLE tenant_acme.later (id serial); INSERT INTO tenant_acme.later VALUES (1)"
    )
    await migrator.execute("CREATE SCHEMA tenant_new; CREATE TABLE tenant_new.t AS SELECT 1 AS one")

    for slug in ("acme", "new"):
        await plant.add_project(slug)
        claim = await plant.claim(slug)
        await plant.attempt(claim)
        assert plant.prefix(claim).read_dump().rows == 1


async def test_what_another_role_makes_is_named_until_it_is_granted(
    plant: Plant, home: str, migrator: asyncpg.Connection
) -> None:
    """Default privileges are those of the role that makes a table."""
    await migrator.execute("CREATE SCHEMA tenant_acme")
    await run_sql(home, "read_tenants.sql", migrator=MIGRATOR)
    await plant.owner.execute("CREATE TABLE tenant_acme.by_another (id int)")
    await plant.add_project("acme")
    claim = await plant.claim()

    failure = await plant.failure(claim)
    await run_sql(home, "read_tenants.sql", migrator=MIGRATOR)
    await plant.attempt(claim)

    assert isinstance(failure, PermanentError)
    assert failure.code == "permission_missing"
    assert failure.sentence.startswith("The dump role may not read table by_another: ")


async def test_the_simple_way_reads_all_and_that_is_its_price(plant: Plant, home: str) -> None:
    """Tables of everybody, without a grant; and the hashes of all passwords."""
    await create_small_tenant(plant.owner, slug="acme", rows=3)
    await plant.add_project("acme")
    claim = await plant.claim()

    await run_sql(home, "read_everything.sql")
    await plant.attempt(claim)
    session = await asyncpg.connect(plant.environment["TENANT_DATABASE_URL"])
    hashes = await session.fetch("SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    await session.close()
    await plant.owner.execute("REVOKE pg_read_all_data FROM pgferry_dump")

    assert plant.prefix(claim).read_dump().rows == 9
    assert hashes


FORBIDDEN = [
    "INSERT INTO tenant_acme.notes VALUES ('x')",
    "UPDATE tenant_acme.notes SET body = 'x'",
    "DELETE FROM tenant_acme.notes",
    "TRUNCATE tenant_acme.notes",
    "SELECT * FROM tenant_acme.notes FOR UPDATE",
    "LOCK TABLE tenant_acme.notes IN ROW EXCLUSIVE MODE",
    "SELECT nextval('tenant_acme.orders_id_seq')",
    "SELECT setval('tenant_acme.orders_id_seq', 1)",
    "CREATE TABLE tenant_acme.t (a int)",
    "CREATE VIEW tenant_acme.v AS SELECT 1",
    "CREATE FUNCTION tenant_acme.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE public.t (a int)",
    "CREATE TEMPORARY TABLE t (a int)",
    "CREATE SCHEMA mine",
    "CREATE EXTENSION citext SCHEMA tenant_acme",
    "ALTER TABLE tenant_acme.notes ADD COLUMN b int",
    "ALTER SCHEMA tenant_acme RENAME TO mine",
    "DROP TABLE tenant_acme.notes",
    "DROP SCHEMA tenant_acme CASCADE",
    "CREATE INDEX ON tenant_acme.notes (body)",
    "COMMENT ON TABLE tenant_acme.notes IS 'x'",
    "ALTER TABLE tenant_acme.notes OWNER TO pgferry_dump",
    "REFRESH MATERIALIZED VIEW tenant_acme.totals",
    "CREATE ROLE mine",
    "ALTER ROLE pgferry_dump BYPASSRLS",
    "SET ROLE pgferry_exporter",
    "SELECT * FROM control_plane.jobs",
    "SELECT * FROM pg_authid",
    "COPY tenant_acme.notes TO PROGRAM 'cat'",
    "SELECT pg_read_file('postgresql.conf')",
]


@pytest.mark.parametrize("way", ["read_tenants.sql", "read_everything.sql"])
async def test_the_role_can_change_nothing(plant: Plant, home: str, way: str) -> None:
    """By its rights alone: that its transactions are read-only is switched off first."""
    await create_small_tenant(plant.owner, slug="acme", rows=3)
    await plant.owner.execute("CREATE MATERIALIZED VIEW tenant_acme.totals AS SELECT 1 AS one")
    await run_sql(home, way, migrator="postgres")
    session = await asyncpg.connect(plant.environment["TENANT_DATABASE_URL"])
    assert await session.fetchval("SHOW default_transaction_read_only") == "on"
    await session.execute("SET default_transaction_read_only = off")

    read_everything = {"SELECT * FROM control_plane.jobs", "SELECT * FROM pg_authid"}
    allowed = [statement for statement in FORBIDDEN if await succeeds(session, statement)]
    await session.close()
    await plant.owner.execute(f"REVOKE pg_read_all_data FROM pgferry_dump; {FORGET_DEFAULTS}")

    assert set(allowed) == (read_everything if way == "read_everything.sql" else set())


async def succeeds(session: asyncpg.Connection, statement: str) -> bool:
    """Anything but a lack of rights would hide one."""
    try:
        async with session.transaction():
            await session.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True
