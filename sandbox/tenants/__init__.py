"""Make tenants to back up: the demo and the tests call this on a database of their own.

Each function makes the schema `tenant_<slug>` and all that is in it, owned by the connection's role, in one
transaction. Nothing in it refers to an extension or to another schema, so that `pg_dump -n` of the schema
restores into an empty database. The database's encoding must be UTF8.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

CANARY = "NEIGHBOUR-CANARY"
"""Stands in the neighbour's rows; a backup of another tenant never contains it."""

_SCRIPTS = Path(__file__).parent
_ORDERS_PER_MEGABYTE = 1200
_BATCH_MEGABYTES = 20
_CROWD_TABLES_PER_SCHEMA = 100
_SENTENCES = 30_000  # more than zstd's window holds, so that they don't compress to nothing


async def create_demo_tenant(connection: asyncpg.Connection, *, slug: str, megabytes: int) -> None:
    """Make a tenant with one of everything, whose plain dump has about so many megabytes (10^6 bytes)."""
    orders = megabytes * _ORDERS_PER_MEGABYTE
    async with connection.transaction():
        await _enter_new_schema(connection, slug)
        await _set(connection, "sandbox.orders", str(orders))
        await _set(connection, "sandbox.sentences", str(min(orders + 1, _SENTENCES)))
        for script in ("demo_tables.sql", "demo_rows.sql", "demo_finish.sql"):
            await _run(connection, script)


async def create_everything(connection: asyncpg.Connection, *, slug: str) -> None:
    """Make a tenant with one of each kind of thing that a schema may hold, policies in force included."""
    async with connection.transaction():
        await _enter_new_schema(connection, slug)
        await _run(connection, "everything.sql")


async def create_neighbour(connection: asyncpg.Connection, *, slug: str) -> None:
    """Make a small tenant whose rows all contain the canary."""
    async with connection.transaction():
        await _enter_new_schema(connection, slug)
        await _set(connection, "sandbox.canary", CANARY)
        await _run(connection, "neighbour.sql")


async def create_small_tenant(connection: asyncpg.Connection, *, slug: str, rows: int) -> None:
    """Make a tenant of three tables, customers, orders and notes, with so many rows in each."""
    async with connection.transaction():
        await _enter_new_schema(connection, slug)
        await _set(connection, "sandbox.rows", str(rows))
        await _run(connection, "small.sql")


async def create_large_tenant(connection: asyncpg.Connection, *, slug: str, megabytes: int) -> None:
    """Make a tenant to measure with, whose plain dump has about so many megabytes, quickly."""
    batches = math.ceil(megabytes / _BATCH_MEGABYTES)
    async with connection.transaction():
        await _enter_new_schema(connection, slug)
        await _set(connection, "sandbox.batches", str(batches))
        await _set(connection, "sandbox.share", str(megabytes / batches / _BATCH_MEGABYTES))
        await _run(connection, "large.sql")


async def create_crowd(connection: asyncpg.Connection, *, tables: int) -> None:
    """Fill the database with other tenants' empty tables, each with a key, a default and a text."""
    for number, first in enumerate(range(0, tables, _CROWD_TABLES_PER_SCHEMA)):
        count = min(tables - first, _CROWD_TABLES_PER_SCHEMA)
        await create_tables(connection, slug=f"crowd-{number}", tables=count, rows=0)


async def create_tables(connection: asyncpg.Connection, *, slug: str, tables: int, rows: int) -> None:
    """Make a tenant of so many tables, with so many rows in each."""
    async with connection.transaction():
        await _enter_new_schema(connection, slug)
        await _set(connection, "sandbox.tables", str(tables))
        await _set(connection, "sandbox.rows", str(rows))
        await _run(connection, "crowd.sql")


async def create_entangled_tenant(connection: asyncpg.Connection, *, slug: str) -> None:
    """Make a tenant that needs, or has, one of everything that no dump of its schema carries.

    Needs a superuser, and the schemas `public` and `shared_things`; makes roles `entangled_owner` and
    `entangled_reader` of the whole server.
    """
    async with connection.transaction():
        await _run(connection, "entangled_roles.sql")
        await _enter_new_schema(connection, slug)
        await _run(connection, "entangled.sql")


async def _enter_new_schema(connection: asyncpg.Connection, slug: str) -> None:
    schema = await connection.fetchval("SELECT quote_ident($1)", f"tenant_{slug}")
    await connection.execute(f"CREATE SCHEMA {schema}")
    await _set(connection, "search_path", schema)


async def _set(connection: asyncpg.Connection, name: str, value: str) -> None:
    await connection.execute("SELECT set_config($1, $2, true)", name, value)


async def _run(connection: asyncpg.Connection, script: str) -> None:
    await connection.execute((_SCRIPTS / script).read_text(encoding="utf-8"))
