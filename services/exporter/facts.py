"""Reads what a backup holds, what it needs, and what it could not carry, in the snapshot's transaction.

`services.exporter.export` asks beside the dump; `services.exporter.describe` writes the answer down. Names
are data: they are encrypted like it. Only the count of each kind of warning stands in the clear.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from services.exporter import catalogue
from services.exporter.snapshot import Snapshot
from services.exporter.tenant import speaking_to_tenant
from shared.contracts.manifest import Extension, Facts, LargeObjects, Locale, RowSecurity

_SCHEMA = "SELECT oid FROM pg_namespace WHERE nspname = $1"
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}

#: In every database from the beginning, so nobody has to make it.
_EVERYWHERE = "plpgsql"


class Warned(NamedTuple):
    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Found:
    """What the snapshot shows of the schema; `facts` has no tables yet."""

    rows: Mapping[str, int]
    facts: Facts
    warnings: Sequence[Warned]

    def counted(self, *further: Warned) -> dict[str, int]:
        """How many warnings of each code: what may be told to anybody."""
        return dict(sorted(Counter(warned.code for warned in (*self.warnings, *further)).items()))


async def look_at(snapshot: Snapshot) -> Found:
    """Raises a Failure with the server's complaint."""
    with speaking_to_tenant():
        schema = await snapshot.connection.fetchval(_SCHEMA, snapshot.schema)
        facts = await _facts(snapshot.connection, schema)
        warnings = await _warnings(snapshot, schema, facts)
    return Found(await snapshot.count_rows(), facts, warnings)


async def _facts(connection: asyncpg.Connection, schema: int) -> Facts:
    names = await _names(connection, schema)
    return Facts(
        tables=(),
        views=names["v"],
        materialized_views=names["m"],
        sequences=names["S"],
        foreign_tables=names["f"],
        functions=names["function"],
        types=names["type"],
        extensions=await _extensions(connection, schema),
        references=await _texts(connection, catalogue.REFERENCES, schema),
        row_security=await _row_security(connection, schema),
        large_objects=LargeObjects(
            columns=await _texts(connection, catalogue.LARGE_OBJECT_COLUMNS, schema),
            in_database=await connection.fetchval(catalogue.LARGE_OBJECTS),
        ),
        owners=await _texts(connection, catalogue.OWNERS, schema),
        grants=(
            *await _texts(connection, catalogue.GRANTS, schema),
            *await _texts(connection, catalogue.DEFAULT_GRANTS, schema),
        ),
        locale=await _locale(connection),
    )


async def _warnings(snapshot: Snapshot, schema: int, facts: Facts) -> list[Warned]:
    left_behind = catalogue.left_behind(snapshot.connection.get_server_version().major)
    return [
        *_of_extensions(snapshot),
        *_needs(facts, snapshot.schema),
        *_missed_large_objects(facts.large_objects),
        *[Warned(*record) for record in await snapshot.connection.fetch(left_behind, schema)],
    ]


async def _names(connection: asyncpg.Connection, schema: int) -> defaultdict[str, tuple[str, ...]]:
    """By kind: pg_class.relkind, `function` or `type`."""
    names: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for kind, name in await connection.fetch(catalogue.NAMES, schema):
        names[kind] += (name,)
    return names


async def _texts(connection: asyncpg.Connection, query: str, schema: int) -> tuple[str, ...]:
    return tuple(text for (text,) in await connection.fetch(query, schema))


async def _extensions(connection: asyncpg.Connection, schema: int) -> tuple[Extension, ...]:
    return tuple(Extension(**record) for record in await connection.fetch(catalogue.EXTENSIONS, schema))


async def _row_security(connection: asyncpg.Connection, schema: int) -> tuple[RowSecurity, ...]:
    return tuple(RowSecurity(**record) for record in await connection.fetch(catalogue.ROW_SECURITY, schema))


async def _locale(connection: asyncpg.Connection) -> Locale:
    [record] = await connection.fetch(catalogue.DATABASE)
    database = json.loads(record["rest"])
    return Locale(
        encoding=record["encoding"],
        collate=database["datcollate"],
        ctype=database["datctype"],
        provider=_PROVIDERS.get(database.get("datlocprovider", "c"), "unknown"),
        locale=database.get("datlocale") or database.get("daticulocale"),
    )


def _of_extensions(snapshot: Snapshot) -> list[Warned]:
    return [
        Warned("of_extension", f"table {table.name} belongs to an extension and is not in the dump")
        for table in snapshot.tables
        if table.of_extension
    ]


def _needs(facts: Facts, schema: str) -> list[Warned]:
    extensions = [extension for extension in facts.extensions if extension.name != _EVERYWHERE]
    return [
        *[
            Warned("extension_needed", f"Before the restore: {extension.sql};")
            for extension in extensions
            if extension.schema_name != schema
        ],
        *[
            Warned(
                "extension_inside",
                f"Extension {extension.name} lies in the schema itself: the dump makes the schema, but not "
                "the extension; ALTER EXTENSION … SET SCHEMA moves it out.",
            )
            for extension in extensions
            if extension.schema_name == schema
        ],
        *[
            Warned("reference_outside", f"The restore needs what is outside of the schema: {reference}")
            for reference in facts.references
        ],
    ]


def _missed_large_objects(found: LargeObjects) -> list[Warned]:
    """A column of type oid may mean anything; together with large objects it is likely to mean them."""
    if not found.in_database or not found.columns:
        return []
    return [
        Warned(
            "large_objects",
            f"The database has {found.in_database} large objects, and no dump of a schema holds one: "
            f"{column} may refer to them.",
        )
        for column in found.columns
    ]
