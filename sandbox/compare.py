"""Tell whether a restored schema is the one that was dumped: the demo and the tests call this.

Both sides are described the same way, as named things with a definition, each side in one snapshot; what
differs is handed on as sentences. Not looked at, because a dump of ours leaves it out or a tenant hardly has
it: owners, privileges, operator classes, text search objects, collations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox import catalog_queries

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

_SETTINGS = {
    "search_path": "",  # so that definitions name every schema
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "row_security": "off",
}

_OWNERS = frozenset(
    {"table", "partitioned table", "foreign table", "view", "materialized view", "composite type", "domain"}
)
_CHARACTERS_BEFORE = 30
_CHARACTERS_SHOWN = 120

_Key = tuple[str, str, str]
"""Kind, the relation it is or belongs to or "", and the name it has there."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two schemas, a sentence each, and how much of the source was compared.

    `tables` counts partitions and partitioned tables, `views` materialized views too; `rows` those of tables.
    """

    differences: tuple[str, ...]
    tables: int
    rows: int
    sequences: int
    constraints: int
    indexes: int
    views: int


@dataclass(frozen=True, slots=True)
class _Inventory:
    things: dict[_Key, str]
    rows: int


async def compare_schemas(
    source: asyncpg.Connection, target: asyncpg.Connection, *, schema: str
) -> Comparison:
    """Compare the schema of this name in two databases, rows included.

    A schema that is missing is a difference. Rows of databases with different encodings differ. A transaction
    that is already open on a connection must be a repeatable read.
    """
    original = await _inventory(source, schema)
    copy = await _inventory(target, schema)
    return Comparison(
        differences=tuple(_differences(original, copy, schema)),
        tables=_count(original, "table", "partitioned table", "foreign table"),
        rows=original.rows if original else 0,
        sequences=_count(original, "sequence"),
        constraints=_count(original, "constraint"),
        indexes=_count(original, "index"),
        views=_count(original, "view", "materialized view"),
    )


async def _inventory(connection: asyncpg.Connection, schema: str) -> _Inventory | None:
    """Describe the schema as one snapshot shows it; None if there is none."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(catalog_queries.SET_LOCAL, list(_SETTINGS), list(_SETTINGS.values()))
        oid = await connection.fetchval(catalog_queries.SCHEMA, schema)
        if oid is None:
            return None
        things = await _definitions(connection, oid) | await _sequences(connection, oid)
        contents, rows = await _contents(connection, oid)
        return _Inventory(things | contents, rows)


async def _definitions(connection: asyncpg.Connection, schema: int) -> dict[_Key, str]:
    return {
        (thing["kind"], thing["relation"], thing["name"]): thing["definition"] or ""
        for query in catalog_queries.QUERIES
        for thing in await connection.fetch(query, schema)
    }


async def _sequences(connection: asyncpg.Connection, schema: int) -> dict[_Key, str]:
    sequences: dict[_Key, str] = {}
    for sequence in await connection.fetch(catalog_queries.SEQUENCES, schema):
        value = await connection.fetchval(catalog_queries.SEQUENCE_VALUE.format(sequence["qualified"]))
        sequences["sequence", "", sequence["relname"]] = f"{value}, {sequence['parameters']}"
    return sequences


async def _contents(connection: asyncpg.Connection, schema: int) -> tuple[dict[_Key, str], int]:
    """Count and hash each table's own rows; the number is that of all tables, without materialized views."""
    contents: dict[_Key, str] = {}
    total = 0
    for filled in await connection.fetch(catalog_queries.FILLED, schema):
        [(rows, hash_sum)] = await connection.fetch(catalog_queries.CONTENT.format(filled["qualified"]))
        contents["content", filled["relname"], ""] = f"{rows} rows with hash sum {hash_sum}"
        total += rows if filled["is_table"] else 0
    return contents, total


def _count(inventory: _Inventory | None, *kinds: str) -> int:
    return sum(kind in kinds for kind, _, _ in inventory.things) if inventory else 0


def _differences(original: _Inventory | None, copy: _Inventory | None, schema: str) -> Iterator[str]:
    if original is None:
        yield f"Schema {schema} is missing in the source."
    if copy is None:
        yield f"Schema {schema} is missing in the copy."
    if original and copy:
        yield from _differences_between(original.things, copy.things)


def _differences_between(original: dict[_Key, str], copy: dict[_Key, str]) -> Iterator[str]:
    """Without what is missing only because the relation it belongs to is."""
    one_sided = {relation for kind, relation, _ in original.keys() ^ copy.keys() if kind in _OWNERS}
    for key in sorted(original | copy):
        kind, relation, _ = key
        if kind in _OWNERS or relation not in one_sided:
            yield from _difference(key, original.get(key), copy.get(key))


def _difference(key: _Key, original: str | None, copy: str | None) -> Iterator[str]:
    label = _label(*key)
    if copy is None:
        yield f"{label} is missing in the copy."
    elif original is None:
        yield f"{label} is only in the copy."
    elif original != copy:
        start = max(0, _first_difference(original, copy) - _CHARACTERS_BEFORE)
        here, there = (_excerpt(definition, start) for definition in (original, copy))
        yield f"{label} differs: the source has {here!r}, the copy {there!r}."


def _label(kind: str, relation: str, name: str) -> str:
    if kind in _OWNERS:
        return f"{kind.capitalize()} {relation}"
    belonging = f"of {relation}" if relation else ""
    return " ".join(filter(None, (kind.capitalize(), name, belonging)))


def _first_difference(original: str, copy: str) -> int:
    pairs = enumerate(zip(original, copy, strict=False))
    return next((place for place, (here, there) in pairs if here != there), min(len(original), len(copy)))


def _excerpt(definition: str, start: int) -> str:
    end = start + _CHARACTERS_SHOWN
    return ("…" if start else "") + definition[start:end] + ("…" if definition[end:] else "")
