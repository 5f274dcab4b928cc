"""A backup says what it holds, what it needs, and what it could not carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from cli.jobs import _public
from sandbox.stack import allow_dump
from sandbox.tenants import create_entangled_tenant
from services.exporter.facts import Found, look_at
from services.exporter.snapshot import hold_snapshot, list_tables
from shared.contracts.manifest import Facts, LargeObjects, RowSecurity
from tests.integration.export_plant import Plant, plant_on
from tests.integration.jobs_in import copied_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sandbox.postgres import PostgresServer
    from shared.contracts.job import Claim
    from shared.contracts.manifest import Dump

SCHEMA = "tenant_entangled"

AFTERWARDS = """
    DROP PUBLICATION entangled_tables, entangled_schema;
    SET allow_system_table_mods = on;
    DELETE FROM pg_seclabel;
    RESET allow_system_table_mods;
    SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
"""


@pytest.fixture(scope="module")
async def plant(
    home: str, tmp_path_factory: pytest.TempPathFactory, role_passwords: dict[str, str]
) -> AsyncIterator[Plant]:
    """With one tenant that is entangled with everything."""
    folder: Path = tmp_path_factory.mktemp("facts")
    async with plant_on(home, folder, role_passwords) as plant:
        await create_entangled_tenant(plant.owner, slug="entangled")
        await plant.owner.execute("RESET search_path; ALTER ROLE pgferry_dump BYPASSRLS")
        await allow_dump(plant.owner, SCHEMA)
        await plant.add_project("entangled")
        yield plant
        await plant.owner.execute(AFTERWARDS)
        await plant.owner.execute("ALTER ROLE pgferry_dump NOBYPASSRLS")


@pytest.fixture(scope="module")
async def claim(plant: Plant) -> Claim:
    """Its one export, dumped."""
    claim = await plant.claim("entangled")
    await plant.attempt(claim)
    return claim


@pytest.fixture(scope="module")
def facts(plant: Plant, claim: Claim) -> Facts:
    return plant.facts(claim)


@pytest.fixture(scope="module")
def dump(plant: Plant, claim: Claim) -> Dump:
    return plant.prefix(claim).read_dump()


def test_what_the_schema_holds_is_listed(facts: Facts) -> None:
    """By kind; what an extension put into the schema is not of it."""
    assert {table.name: table.rows for table in facts.tables} == {"people": 0, "pictures": 0}
    assert facts.views == ("people_of_countries",)
    assert facts.materialized_views == ("feelings",)
    assert facts.sequences == ("invoice_numbers", "people_id_seq", "people_serial_number_seq")
    assert [name for name in facts.functions if not name.startswith("span")] == [
        "feels(tenant_entangled.mood)",
        "greet(who text, INOUT times integer)",
        "longest(text)",
        "tidy()",
    ]
    assert facts.types == ("mood", "pair", "short_text", "span")
    assert facts.row_security == (RowSecurity(table="people", forced=True, policies=1),)
    assert facts.large_objects == LargeObjects(
        columns=("pictures.content", "pictures.thumbnail"), in_database=1
    )


def test_needed_extensions_come_with_the_statement_that_makes_them(facts: Facts) -> None:
    """Found by what depends on them: a column, an array, an index, a function's language."""
    assert {(extension.name, extension.schema_name) for extension in facts.extensions} == {
        ("citext", "public"),
        ("hstore", SCHEMA),
        ("lo", "public"),
        ("pg_trgm", "public"),
        ("plpgsql", "pg_catalog"),
    }
    assert [extension.sql for extension in facts.extensions if extension.name == "lo"] == [
        "CREATE EXTENSION IF NOT EXISTS lo WITH SCHEMA public VERSION '1.1'"
    ]


def test_what_lies_outside_of_the_schema_is_named_with_what_needs_it(facts: Facts) -> None:
    """A foreign key, a type, a default, a trigger, a view."""
    assert set(facts.references) == {
        "table constraint people_country_fkey on tenant_entangled.people → table shared_things.countries",
        "table tenant_entangled.people → type shared_things.colour",
        "table tenant_entangled.people → function shared_things.next_code()",
        "trigger stamp on tenant_entangled.people → function shared_things.stamp()",
        "view tenant_entangled.people_of_countries → table shared_things.countries",
    }


def test_where_the_data_comes_from_is_told(facts: Facts) -> None:
    assert facts.locale is not None
    assert (facts.locale.encoding, facts.locale.collate, facts.locale.provider) == ("UTF8", "C.UTF-8", "libc")


CODES = {
    "cast_left_out": 1,
    "extension_inside": 1,
    "extension_needed": 3,
    "large_objects": 2,
    "partition_outside": 1,
    "publication": 2,
    "reference_outside": 5,
    "role_needed": 1,
    "security_label": 1,
    "subscription": 1,
}


def test_what_the_dump_does_not_carry_is_a_warning(facts: Facts, dump: Dump) -> None:
    """Its sentence is for the owner of the data; in the clear stands only how many of which kind."""
    assert dict(dump.warnings) == CODES
    assert len(facts.warnings) == sum(CODES.values())
    assert "Before the restore: CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public" in " ".join(
        facts.warnings
    )
    clear = dump.model_dump_json(exclude={"facts"})
    assert not [name for name in ("citext", "people", "shared_things", "entangled_") if name in clear]


async def test_the_job_shows_how_many_warnings_there_are(plant: Plant, claim: Claim) -> None:
    """As `pgferry jobs show` prints it."""
    async with plant.database.session() as session:
        job = await session.jobs.find(claim.job_id)
    assert job is not None

    shown = _public(job)["dump"]

    assert isinstance(shown, dict)
    assert shown["warnings"] == CODES
    assert "facts" not in shown


async def test_owners_and_grants_can_be_applied_again(
    plant: Plant, postgres_server: PostgresServer, claim: Claim, facts: Facts
) -> None:
    """After a restore they make the copy's owners and rights those of the source."""
    async with copied_database(postgres_server, "template0") as url:
        target = await asyncpg.connect(url)
        await target.execute(await needed_by(plant, facts))
        plain = plant.fetched(claim).plain().replace('CREATE SCHEMA "tenant_entangled";', "")
        await target.execute(without_meta_commands(plain))
        before = await found_in(target, claim)
        await target.execute(";".join([*facts.owners, *facts.grants]))

        after = await found_in(target, claim)
        await target.close()

    assert before.facts.grants == ()
    assert {
        "REVOKE USAGE ON TYPE tenant_entangled.mood FROM PUBLIC",
        "REVOKE EXECUTE ON ROUTINE tenant_entangled.greet(pg_catalog.text,integer) FROM PUBLIC",
        "GRANT SELECT ON TABLE tenant_entangled.pictures TO entangled_reader WITH GRANT OPTION",
    } <= set(facts.grants)
    assert after.facts.owners == facts.owners
    assert after.facts.grants == facts.grants
    assert after.facts.references == facts.references


async def needed_by(plant: Plant, facts: Facts) -> str:
    """What the warnings ask for, made in the target; hstore lies in the schema itself."""
    extensions = ";".join(extension.sql for extension in facts.extensions)
    return f"""
        CREATE SCHEMA {SCHEMA}; {extensions}; SET search_path = {SCHEMA}; CREATE SCHEMA shared_things;
        CREATE TABLE shared_things.countries (code text PRIMARY KEY);
        CREATE TYPE shared_things.colour AS ENUM ('red', 'green');
        CREATE FUNCTION shared_things.stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE FUNCTION shared_things.next_code() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$
    """


def without_meta_commands(plain: str) -> str:
    """Every table is empty, so the rest is SQL."""
    kept = [line for line in plain.splitlines() if not line.startswith(("\\", "COPY "))]
    return "\n".join(kept)


async def found_in(connection: asyncpg.Connection, claim: Claim) -> Found:
    await connection.execute("SET search_path = pg_catalog")
    tables = await list_tables(connection.fetch, SCHEMA)
    try:
        async with hold_snapshot(
            connection, claim, schema=SCHEMA, tables=tables, lock_seconds=5, dump_seconds=60
        ) as snapshot:
            return await look_at(snapshot)
    finally:
        await connection.execute("ROLLBACK")
