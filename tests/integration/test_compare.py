"""The comparison finds every kind of alteration in a restored copy of the demo tenant, and only those."""

from __future__ import annotations

import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sandbox.compare import compare_schemas
from sandbox.postgres import newest_bin_directory
from sandbox.tenants import CANARY, create_demo_tenant, create_neighbour, create_small_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox.postgres import PostgresServer

SCHEMA = "tenant_acme-corp"


@dataclass(frozen=True, slots=True)
class Pair:
    """A tenant beside a neighbour, the dump of the tenant, and what was restored from it."""

    source: asyncpg.Connection
    copy: asyncpg.Connection
    dump: str


@pytest.fixture(scope="module")
async def pair(postgres_server: PostgresServer) -> AsyncIterator[Pair]:
    async with (
        fresh_database(postgres_server, "compare-source") as source,
        fresh_database(postgres_server, "compare-copy") as copy,
    ):
        await create_demo_tenant(source, slug="acme-corp", megabytes=1)
        await create_neighbour(source, slug="acme_corp")
        dump = dump_of(postgres_server.url("compare-source"))
        restore(dump, postgres_server.url("compare-copy"))
        yield Pair(source, copy, dump)


@asynccontextmanager
async def fresh_database(server: PostgresServer, name: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a new database, which is dropped afterwards."""
    administrator = await asyncpg.connect(server.url())
    await administrator.execute(f'CREATE DATABASE "{name}"')
    connection = await asyncpg.connect(server.url(name))
    try:
        yield connection
    finally:
        await connection.close()
        await administrator.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await administrator.close()


@asynccontextmanager
async def undone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction in the tenant's schema that leaves no trace."""
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        await connection.execute(f'SET LOCAL search_path = "{SCHEMA}"')
        yield
    finally:
        await transaction.rollback()


def dump_of(url: str) -> str:
    options = ["--no-owner", "--no-privileges", "--quote-all-identifiers", "--schema", f'"{SCHEMA}"']
    return run("pg_dump", *options, "--dbname", url)


def restore(dump: str, url: str) -> None:
    options = ["-X", "--quiet", "-v", "ON_ERROR_STOP=1", "--single-transaction"]
    run("psql", *options, "--dbname", url, standard_input=dump)


def run(program: str, *arguments: str, standard_input: str = "") -> str:
    command = [str(newest_bin_directory() / program), *arguments]
    return subprocess.run(command, input=standard_input, text=True, check=True, capture_output=True).stdout


async def test_a_restored_copy_has_no_difference(pair: Pair) -> None:
    """Whatever the demo tenant has survives pg_dump and psql, and the summary counts it."""
    comparison = await compare_schemas(pair.source, pair.copy, schema=SCHEMA)

    assert comparison.differences == ()
    assert (comparison.tables, comparison.views, comparison.sequences) == (13, 3, 5)
    orders, items, events, attachments, customers = 1200, 2 * 1200, 600, 200, 130
    products, lines, awkward_texts = 2 * 200, 13, 8
    assert comparison.rows == (
        orders + items + events + attachments + customers + products + lines + awkward_texts
    )
    assert comparison.constraints > 15
    assert comparison.indexes > 20


async def test_settings_of_the_sessions_do_not_matter(pair: Pair) -> None:
    """Two sessions that print times, floats and names differently still agree."""
    async with undone(pair.copy):
        await pair.copy.execute("""
            SET LOCAL datestyle = 'German'; SET LOCAL timezone = 'Asia/Tokyo';
            SET LOCAL extra_float_digits = 0; SET LOCAL bytea_output = 'escape';
            SET LOCAL quote_all_identifiers = on
        """)
        comparison = await compare_schemas(pair.source, pair.copy, schema=SCHEMA)

    assert comparison.differences == ()


ALTERATIONS = (
    ("DROP TABLE nothing_yet", "Table nothing_yet is missing in the copy."),
    ("CREATE TABLE extra (id integer PRIMARY KEY)", "Table extra is only in the copy."),
    ("ALTER TABLE lines SET UNLOGGED", "Table lines differs"),
    (
        "ALTER TABLE nothing_yet DROP reason",
        "Column reason of nothing_yet is missing in the copy.",
        "Constraint nothing_yet_reason_check of nothing_yet is missing in the copy.",
    ),
    ("ALTER TABLE nothing_yet ADD extra text", "Column extra of nothing_yet is only in the copy."),
    ("ALTER TABLE awkward_texts ALTER body TYPE varchar", "Column body of awkward_texts differs"),
    ("ALTER TABLE products ALTER sku TYPE varchar(30)", "Column sku of products differs"),
    ("ALTER TABLE products ALTER states_sold DROP NOT NULL", "Column states_sold of products differs"),
    ("ALTER TABLE orders ALTER state SET DEFAULT 'paid'", "Column state of orders differs"),
    ("ALTER TABLE customers ALTER sort_key DROP EXPRESSION", "Column sort_key of customers differs"),
    ("ALTER TABLE customers ALTER id SET GENERATED ALWAYS", "Column id of customers differs"),
    ("DELETE FROM lines WHERE line = ''", "Content of lines differs"),
    ("INSERT INTO lines VALUES (''), ('')", "Content of lines differs"),
    ("UPDATE lines SET line = '' WHERE line IS NULL", "Content of lines differs"),
    ("UPDATE awkward_texts SET body = body || ' ' WHERE id = 3", "Content of awkward_texts differs"),
    ("UPDATE awkward_texts SET raw = raw || '\\x00' WHERE id = 3", "Content of awkward_texts differs"),
    ("DELETE FROM events_2024", "Content of events_2024 differs"),
    (
        "ALTER TABLE events DETACH PARTITION events_other",
        "Index events_other_happened_at_idx of events_other differs",
        "Index events_other_pkey of events_other differs",
        "Table events_other differs",
    ),
    ("ALTER SEQUENCE ticket_numbers RESTART", "Sequence ticket_numbers differs"),
    ("ALTER SEQUENCE ticket_numbers RESTART WITH 80", "Sequence ticket_numbers differs"),
    ("ALTER SEQUENCE ticket_numbers INCREMENT BY -1", "Sequence ticket_numbers differs"),
    ("ALTER SEQUENCE invoice_numbers OWNED BY orders.invoice", "Sequence invoice_numbers differs"),
    ("ALTER TABLE orders ALTER id RESTART", "Sequence orders_id_seq differs"),
    (
        "ALTER TABLE products DROP CONSTRAINT price_is_not_negative",
        "Constraint price_is_not_negative of products is missing in the copy.",
    ),
    (
        "ALTER TABLE nothing_yet VALIDATE CONSTRAINT nothing_yet_reason_check",
        "Constraint nothing_yet_reason_check of nothing_yet differs",
    ),
    (
        "ALTER TABLE products DROP CONSTRAINT sku_is_unique",
        "Constraint sku_is_unique of products is missing in the copy.",
        "Index sku_is_unique of products is missing in the copy.",
    ),
    (
        'ALTER TABLE "mixedCase" DROP CONSTRAINT "is-a-product"',
        "Constraint is-a-product of mixedCase is missing in the copy.",
    ),
    ("DROP INDEX unpaid_orders", "Index unpaid_orders of orders is missing in the copy."),
    (
        "DROP INDEX unpaid_orders; CREATE INDEX unpaid_orders ON orders (placed_at) WHERE state = 'paid'",
        "Index unpaid_orders of orders differs",
    ),
    ("DROP VIEW best_customers", "View best_customers is missing in the copy."),
    (
        'CREATE OR REPLACE VIEW best_customers AS SELECT "fullName", 1.0 AS spent FROM customers',
        "View best_customers differs",
    ),
    ("ALTER VIEW best_customers RESET (security_barrier)", "View best_customers differs"),
    ("ALTER VIEW best_customers ALTER spent SET DEFAULT 1", "Column spent of best_customers differs"),
    (
        "REFRESH MATERIALIZED VIEW orders_by_state WITH NO DATA",
        "Content of orders_by_state is missing in the copy.",
    ),
    (
        "UPDATE orders SET state = 'new'; REFRESH MATERIALIZED VIEW orders_by_state",
        "Content of orders differs",
        "Content of orders_by_state differs",
    ),
    (
        "DROP TRIGGER orders_note_the_change ON orders",
        "Trigger orders_note_the_change of orders is missing in the copy.",
    ),
    (
        "ALTER TABLE orders DISABLE TRIGGER orders_note_the_change",
        "Trigger orders_note_the_change of orders differs",
    ),
    ("ALTER FUNCTION note_the_change RESET search_path", "Function note_the_change() differs"),
    (
        "DROP FUNCTION what_a_dump_looks_like",
        'Comment on function "tenant_acme-corp".what_a_dump_looks_like(pg_catalog.text) is missing',
        "Function what_a_dump_looks_like(table_name text) is missing in the copy.",
    ),
    ("CREATE RULE kept AS ON DELETE TO lines DO INSTEAD NOTHING", "Rule kept of lines is only in the copy."),
    ("CREATE POLICY mine ON lines USING (true)", "Policy mine of lines is only in the copy."),
    ("ALTER TABLE lines ENABLE ROW LEVEL SECURITY", "Table lines differs"),
    ("ALTER TABLE lines REPLICA IDENTITY FULL", "Table lines differs"),
    ("ALTER TABLE lines ALTER line SET STORAGE EXTERNAL", "Column line of lines differs"),
    ("CREATE STATISTICS pair ON id, state FROM orders", "Statistics pair is only in the copy."),
    (
        "CREATE AGGREGATE total (integer) (sfunc = int4pl, stype = integer)",
        "Aggregate total(integer) is only in the copy.",
    ),
    (
        "CREATE OPERATOR === (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4eq)",
        "Operator === (integer, integer) is only in the copy.",
    ),
    (
        "CREATE TYPE span AS RANGE (subtype = integer, multirange_type_name = spans)",
        "Function span(integer, integer) is only in the copy.",
        "Function span(integer, integer, text) is only in the copy.",
        'Function spans("tenant_acme-corp".span) is only in the copy.',
        "Function spans() is only in the copy.",
        'Function spans(VARIADIC "tenant_acme-corp".span[]) is only in the copy.',
        "Range span is only in the copy.",
    ),
    ("ALTER TYPE order_state ADD VALUE 'lost' BEFORE 'paid'", "Enum order_state differs"),
    ("ALTER DOMAIN email_address SET DEFAULT 'a@b'", "Domain email_address differs"),
    (
        "ALTER DOMAIN email_address DROP CONSTRAINT has_an_at",
        "Constraint has_an_at of email_address is missing in the copy.",
    ),
    ("COMMENT ON TABLE lines IS 'short'", 'Comment on table "tenant_acme-corp".lines differs'),
    (
        "COMMENT ON COLUMN lines.line IS 'new'",
        'Comment on table column "tenant_acme-corp".lines.line is only in the copy.',
    ),
    (
        "COMMENT ON CONSTRAINT sku_is_unique ON products IS 'new'",
        'Comment on table constraint sku_is_unique on "tenant_acme-corp".products is only in the copy.',
    ),
    (f'ALTER SCHEMA "{SCHEMA}" RENAME TO elsewhere', f"Schema {SCHEMA} is missing in the copy."),
)


@pytest.mark.parametrize("case", ALTERATIONS, ids=[case[0] for case in ALTERATIONS])
async def test_an_alteration_of_the_copy_is_named_and_nothing_else(pair: Pair, case: tuple[str, ...]) -> None:
    """Each kind of thing, altered in a transaction that is undone, gives its own sentences and no others."""
    alteration, *sentences = case
    async with undone(pair.copy):
        await pair.copy.execute(alteration)
        comparison = await compare_schemas(pair.source, pair.copy, schema=SCHEMA)

    assert len(comparison.differences) == len(sentences), comparison.differences
    for difference, sentence in zip(comparison.differences, sentences, strict=True):
        assert difference.startswith(sentence)


async def test_a_sentence_quotes_both_definitions_where_they_part(pair: Pair) -> None:
    """A reader sees at once what is different, even deep in a long function."""
    definition = await pair.source.fetchval(
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'what_a_dump_looks_like'"
    )
    async with undone(pair.copy):
        await pair.copy.execute(definition.replace("one row too many", "one row too few"))
        comparison = await compare_schemas(pair.source, pair.copy, schema=SCHEMA)

    [sentence] = comparison.differences
    assert "one row too many" in sentence
    assert "one row too few" in sentence
    assert "CREATE OR REPLACE" not in sentence


async def test_a_schema_that_neither_side_has_is_no_success(pair: Pair) -> None:
    """A wrong name is told, not taken for two equal schemas."""
    comparison = await compare_schemas(pair.source, pair.copy, schema="tenant_nobody")

    assert comparison.differences == (
        "Schema tenant_nobody is missing in the source.",
        "Schema tenant_nobody is missing in the copy.",
    )


async def test_the_neighbour_is_not_in_the_demo_tenants_dump(pair: Pair) -> None:
    """The canary is in the database that was dumped, but not in the dump of this schema."""
    canaries = await pair.source.fetchval(
        "SELECT count(*) FROM tenant_acme_corp.lines WHERE line = $1", CANARY
    )

    assert canaries == 100
    assert CANARY not in pair.dump


async def test_the_demo_tenants_dump_has_the_size_asked_for_and_lines_that_mislead(pair: Pair) -> None:
    """A reader of the dump meets COPY and completion lines in function, comment and rows."""
    lines = pair.dump.splitlines()

    assert 1_000_000 < len(pair.dump.encode()) < 1_500_000
    assert lines.count("-- PostgreSQL database dump complete") == 4
    assert lines.count(f'COPY "{SCHEMA}"."lines" ("line") FROM stdin;') == 3
    assert 'COPY "x"."y" ("z") FROM stdin;' in lines


async def test_the_demo_tenant_is_the_same_each_time(pair: Pair, database_url: str) -> None:
    """Nothing in it is random or depends on the clock, so two runs can be compared."""
    again = await asyncpg.connect(database_url)
    try:
        await create_demo_tenant(again, slug="acme-corp", megabytes=1)
        comparison = await compare_schemas(pair.source, again, schema=SCHEMA)
    finally:
        await again.close()

    assert comparison.differences == ()


async def test_a_small_tenant_has_three_tables_of_so_many_rows(database_url: str) -> None:
    """Customers, their orders and notes."""
    connection = await asyncpg.connect(database_url)
    try:
        await create_small_tenant(connection, slug="a_b-c", rows=7)
        comparison = await compare_schemas(connection, connection, schema="tenant_a_b-c")
    finally:
        await connection.close()

    assert (comparison.tables, comparison.rows, comparison.differences) == (3, 21, ())
