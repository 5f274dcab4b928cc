"""A good dump: what it holds, what is recorded of it, and which schema it is of."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import asyncpg
import pytest

from sandbox.compare import compare_schemas
from sandbox.process import children_of
from sandbox.stack import allow_dump
from sandbox.tenants import CANARY, create_demo_tenant, create_neighbour
from services.exporter.copy_counter import CopyCounter
from services.exporter.pg_dump import DumpCommand, find_clients, running
from services.exporter.snapshot import hold_snapshot
from services.exporter.tenant import open_tenant
from shared.contracts.job import Format, Stage, Status
from shared.contracts.messages import DumpReady
from shared.contracts.topology import INTERNAL
from tests.integration.export_plant import REAL, UNUSUAL, Gate, Plant, plant_on, url_as

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


HOLD = 'read -r < "$GATE"; exec $REAL "$@"'

#: What means something to a pattern, a shell, SQL or a path, each in a schema name.
HOSTILE = [
    *["tenant_a", "tenant_ab", "tenant_A", "tenant_a*b", "tenant_a?", "tenant_a.b", 'tenant_"a"', "tenant a"],
    *[
        "tenant_$a",
        "tenant_[ab]",
        "tenant_(a|b)",
        "tenant_a\\b",
        "tenant_a'; --",
        "-t tenant_a",
        "tenant_ü\n漢",
    ],
    *["*", "tenant_a+", "tenant_{a}", "^tenant_a$", "$(id)", "../tenant_a", "tenant_a%20"],
]


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    async with plant_on(home, tmp_path, role_passwords) as plant:
        yield plant


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def create_schema(owner: asyncpg.Connection, name: str) -> None:
    """With one table that holds the schema's name."""
    schema = quoted(name)
    await owner.execute(f"CREATE SCHEMA {schema} CREATE TABLE {schema}.t (name text)")
    await owner.execute(f"INSERT INTO {schema}.t VALUES ($1)", name)
    await allow_dump(owner, name)


async def rows_by_counting(owner: asyncpg.Connection, schema: str) -> dict[str, int]:
    tables = await owner.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = $1::text::regnamespace",
        quoted(schema),
    )
    return {
        name: await owner.fetchval(f"SELECT count(*) FROM ONLY {quoted(schema)}.{quoted(name)}")
        for (name,) in tables
    }


async def test_a_real_dump_is_counted_exactly(plant: Plant, home: str) -> None:
    """One of everything, and tables without columns, with generated ones only, with names like SQL."""
    await create_demo_tenant(plant.owner, slug="demo", megabytes=1)
    await plant.owner.execute(UNUSUAL)
    dump = subprocess.run(  # noqa: ASYNC221
        [REAL, f"--dbname={home}", "--schema=tenant_demo", "--quote-all-identifiers"],
        capture_output=True,
        check=True,
    ).stdout
    expected = await rows_by_counting(plant.owner, "tenant_demo")

    for size in (61, 4093, len(dump)):
        counter = CopyCounter()
        for start in range(0, len(dump), size):
            piece = bytearray(dump[start : start + size])
            counter.feed(piece, len(piece))

        assert counter.rows == {("tenant_demo", table): rows for table, rows in expected.items()}
        assert counter.between_statements


async def test_a_tenant_is_dumped_recorded_and_restored(plant: Plant, database_url: str) -> None:
    """Files, job row and message agree; standard tools make an equal schema of the files."""
    await create_demo_tenant(plant.owner, slug="acme-corp", megabytes=1)
    await create_neighbour(plant.owner, slug="acme_corp")
    await allow_dump(plant.owner, "tenant_acme-corp")
    await plant.add_project("acme-corp", project_id="acme")
    claim = await plant.claim()

    await plant.attempt(claim, PGFERRY_PART_SIZE_BYTES="65536")

    dump = plant.prefix(claim).read_dump()
    rows = await rows_by_counting(plant.owner, "tenant_acme-corp")
    assert {table.name: table.rows for table in plant.facts(claim).tables} == rows
    assert (dump.tables, dump.rows) == (len(rows), sum(rows.values()))
    assert (dump.job_id, dump.dump_fence, dump.project_id) == (claim.job_id, claim.fence, "acme")
    assert dump.schema_name == "tenant_acme-corp"
    assert dump.stored.size_bytes == sum(part.size_bytes for part in dump.parts)
    assert len(dump.parts) > 1
    for part in dump.parts:
        content = plant.prefix(claim).loaded_part(part).read_bytes()
        assert hashlib.sha256(content).hexdigest() == part.sha256

    async with plant.database.session() as session:
        job = await session.jobs.find(claim.job_id)
    assert job is not None
    assert (job.status, job.stage, job.dump_fence) == (Status.RUNNING, Stage.DUMPED, claim.fence)
    assert job.dump is not None
    assert job.dump.stored == dump.stored
    [message] = await plant.owner.fetch("SELECT * FROM control_plane.outbox")
    assert (message["exchange"], message["message_type"]) == (INTERNAL, DumpReady.type)
    assert DumpReady.model_validate_json(message["body"]).dump_fence == claim.fence

    fetched = plant.fetched(claim)
    assert not fetched.contains(CANARY)
    fetched.restore_into(database_url)
    target = await asyncpg.connect(database_url)
    comparison = await compare_schemas(plant.owner, target, schema="tenant_acme-corp")
    await target.close()
    assert comparison.differences == ()
    assert comparison.rows == dump.rows


async def test_facts_are_for_whoever_holds_the_key(plant: Plant) -> None:
    """Names and row counts of tables are not to be read in the spool, nor in the job's row."""
    await plant.add_tenant(rows=7)
    claim = await plant.claim()

    await plant.attempt(claim)

    clear = (plant.prefix(claim).path / "dump.json").read_text()
    row = await plant.owner.fetchval("SELECT dump::text FROM control_plane.jobs")
    assert not [name for name in ("customers", "orders", "notes") if name in clear or name in row]
    assert {table.name: table.rows for table in plant.facts(claim).tables} == dict.fromkeys(
        ("customers", "notes", "orders"), 7
    )


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
async def test_without_recipients_nothing_is_encrypted_and_that_is_said(
    plant: Plant, compression: str
) -> None:
    """Only when it was allowed; every compression is undone by its own tool."""
    await plant.add_tenant(rows=7)
    claim = await plant.claim(compression=compression)

    await plant.attempt(claim, PGFERRY_AGE_RECIPIENTS="", PGFERRY_ALLOW_UNENCRYPTED="true")

    dump = plant.prefix(claim).read_dump()
    assert dump.encryption is None
    assert dump.compression == compression
    assert '"customers"' in dump.facts
    assert "\n7\tCustomer 7\n" in plant.fetched(claim, encrypted=False).plain()


async def test_an_empty_schema_is_a_backup_too(plant: Plant) -> None:
    """A new tenant has no table yet."""
    await plant.owner.execute("CREATE SCHEMA tenant_acme")
    await allow_dump(plant.owner, "tenant_acme")
    await plant.add_project("acme")
    claim = await plant.claim()

    await plant.attempt(claim)

    assert (plant.prefix(claim).read_dump().tables, plant.facts(claim).tables) == (0, ())


async def test_what_an_extension_owns_is_left_out_and_named(plant: Plant) -> None:
    """pg_dump leaves it out of a schema's dump, so its rows are not missed."""
    await plant.add_tenant(rows=7)
    await plant.owner.execute(
        """
        CREATE EXTENSION IF NOT EXISTS plpgsql;
        CREATE TABLE tenant_acme.of_extension AS SELECT 1 AS one;
        ALTER EXTENSION plpgsql ADD TABLE tenant_acme.of_extension;
        """
    )
    claim = await plant.claim()

    await plant.attempt(claim)

    await plant.owner.execute("ALTER EXTENSION plpgsql DROP TABLE tenant_acme.of_extension")
    facts = plant.facts(claim)
    assert [table.name for table in facts.tables] == ["customers", "notes", "orders"]
    assert facts.warnings == ("table of_extension belongs to an extension and is not in the dump",)


async def test_only_the_projects_own_schema_is_dumped(plant: Plant) -> None:
    """Among schemas that a careless pattern for tenant_a would reach."""
    for name in HOSTILE:
        await create_schema(plant.owner, name)
    await plant.add_project("a")
    claim = await plant.claim("a")

    await plant.attempt(claim)

    plain = plant.fetched(claim).plain()
    assert schemas_in(plain) == ['"tenant_a"']
    assert "\ntenant_a\n\\.\n" in plain
    assert plant.prefix(claim).read_dump().rows == 1


def schemas_in(plain: str) -> list[str]:
    """The quoted names of all schemas that this dump makes."""
    _, *created = plain.split("\nCREATE SCHEMA ")
    return [text.split(";\n\n")[0] for text in created]


async def test_the_quoting_by_itself_holds_for_hostile_names(plant: Plant) -> None:
    """The second wall, behind the slug's pattern: each name is matched by itself alone."""
    for name in HOSTILE:
        await create_schema(plant.owner, name)
    await plant.add_project("a")
    claim = await plant.claim("a")
    [client] = find_clients(str(REAL.parent))
    url = plant.environment["TENANT_DATABASE_URL"]

    async with open_tenant(url, claim) as connection:
        lock = hold_snapshot(connection, claim, schema="none", tables=[], lock_seconds=5, dump_seconds=60)
        async with lock as snapshot:
            for name in HOSTILE:
                command = DumpCommand(client, Format.SQL, url, name, snapshot.id, 5, claim.application_name)
                path = plant.folder / "plain.sql"
                async with running(command, FileIO(path, "wb")) as dump:
                    ended = await dump.ended()

                assert ended == (0, "")
                assert schemas_in(path.read_text()) == [quoted(name)]


@pytest.mark.parametrize("in_query", [False, True], ids=["in the user part", "in the query"])
async def test_any_password_logs_in_and_is_seen_by_nobody(
    plant: Plant,
    gate: Gate,
    home: str,
    in_query: bool,  # noqa: FBT001
) -> None:
    """pg_dump gets it by a private file in memory: not by arguments, not by environment, not by a disk."""
    await plant.add_tenant(rows=7)
    password = "p:a\\s s@w%o'r/d?&=#+ü\\:"
    role = f"dump_{os.urandom(4).hex()}"
    literal = password.replace("'", "''")
    await plant.owner.execute(f"CREATE ROLE {role} LOGIN IN ROLE pgferry_dump PASSWORD '{literal}'")
    url = url_as(home, role, password)
    if in_query:
        hidden = f":{quote(password, safe='')}@"
        url = f"{url.replace(hidden, '@')}?password={quote(password, safe='')}"
    claim = await plant.claim()
    secrets = {password, quote(password, safe=""), quote(password), password.replace(":", "\\:")}

    before = set(children_of(os.getpid()))
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLD, gate=gate)
        tasks.create_task(plant.attempt(claim, TENANT_DATABASE_URL=url, **program))
        await gate.reached()
        [pid] = set(children_of(os.getpid())) - before
        arguments, environment = seen_of(pid)
        passfile = Path(environment["PGPASSFILE"].replace("self", str(pid)))
        shown = "\0".join([arguments, *environment.values()])
        assert not [secret for secret in secrets if secret in shown]
        assert mode(passfile) == 0o600
        assert is_in_memory(passfile)
        gate.open()

    assert "--dbname=postgresql://" in arguments
    assert plant.prefix(claim).read_dump().rows == 21


def seen_of(pid: int) -> tuple[str, dict[str, str]]:
    """A process's arguments and environment, as its user may see them."""
    process = Path(f"/proc/{pid}")
    variables = (process / "environ").read_text().split("\0")
    return (process / "cmdline").read_text(), dict(line.split("=", 1) for line in variables if line)


def is_in_memory(path: Path) -> bool:
    return str(path.readlink()).startswith("/memfd:")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
