"""Strategies for whole schemas, as lists of statements that run with the schema first in the search path.

`schemas()` is dense: few examples meet most of what a tenant may have.
"""

from collections.abc import Callable, Iterable

from hypothesis import strategies as st

from tests.integration.drawn import Column, Drawn
from tests.integration.edge_values import Type, literal

_HAS_INDEX = {
    "jsonb": "gin", "tsvector": "gin", "int4range": "gist", "point": "gist", "uuid": "hash",
    "integer": "brin", "bigint": "btree", "timestamp with time zone": "btree",
}  # fmt: skip
_TRIGGER_BODY = "BEGIN RAISE NOTICE $a$ $$ \n\\.\n$a$; RETURN NEW; END"


@st.composite
def schemas(draw: st.DrawFn) -> tuple[str, ...]:
    """The statements that make a schema's contents."""
    schema = Drawn(draw)
    for make in (_types, _functions, _tables, _partitions, _inheritance, _views, _sequence):
        make(schema)
    return (*schema.statements, *schema.later)


def _types(schema: Drawn) -> None:
    labels: set[str] = set()
    enum = [schema.bare_name(labels) for _ in range(schema.number(1, 4))]
    _add_type(schema, f"AS ENUM ({', '.join(map(literal, enum))})", lambda sql: Type.of(sql, *enum))
    base = schema.type()
    checks = schema.one_of("", "CHECK (VALUE IS NOT NULL OR true)", f"DEFAULT {base.values[0]}")
    domain = schema.name()
    schema.add(f"CREATE DOMAIN {domain} AS {base.sql} {checks}")
    schema.comment("DOMAIN", domain)
    schema.types.append(Type(domain, tuple(f"{value}::{domain}" for value in base.values)))
    fields: set[str] = set()
    parts = [schema.type() for _ in range(schema.number(1, 3))]
    columns = ", ".join(f"{schema.name(fields)} {part.sql}" for part in parts)
    rows = tuple(f"ROW({', '.join(part.values[at] for part in parts)})" for at in (0, -1))
    _add_type(schema, f"AS ({columns})", lambda sql: Type(sql, tuple(f"{row}::{sql}" for row in rows)))
    multirange = schema.name()
    subtype = schema.one_of("float8", "text", "inet")
    edges = {"float8": "[-Infinity,NaN]", "text": '["a\\\\","b\\"b"]', "inet": "(0.0.0.0,)"}
    _add_type(
        schema,
        f"AS RANGE (subtype = {subtype}, multirange_type_name = {multirange})",
        lambda sql: Type.of(sql, "empty", "(,)", edges[subtype]),
    )


def _add_type(schema: Drawn, definition: str, type_of: Callable[[str], Type]) -> None:
    name = schema.name()
    schema.add(f"CREATE TYPE {name} {definition}")
    schema.comment("TYPE", name)
    schema.types.append(type_of(name))


def _functions(schema: Drawn) -> None:
    result = schema.type()
    body = f"SELECT NULL::{result.sql} /* '$$ \n\\. */ -- ;"
    simple = schema.name()
    schema.add(
        f"CREATE FUNCTION {simple}({schema.name(set())} {schema.type().sql}, text DEFAULT {schema.text()})"
        f" RETURNS {result.sql} LANGUAGE sql {schema.one_of('STABLE', 'VOLATILE COST 7', 'STRICT LEAKPROOF')}"
        f" AS {literal(body)}"
    )
    schema.comment("FUNCTION", simple)
    schema.add(
        f"CREATE PROCEDURE {schema.name()}(INOUT x int) BEGIN ATOMIC SELECT x + 1; END",
        f"CREATE AGGREGATE {schema.name()}(int) (sfunc = int4pl, stype = int, initcond = '7')",
    )


def _tables(schema: Drawn) -> None:
    for _ in range(schema.number(2, 4)):
        name = schema.name()
        columns = _columns(schema)
        kind = schema.one_of("", "", "UNLOGGED")
        schema.add(f"CREATE {kind} TABLE {name} ({_list(columns)})")
        if schema.chance():
            schema.add(f"ALTER TABLE {name} DROP COLUMN {columns.pop(0).name}")
        _fill(schema, name, columns)
        schema.tables[name] = columns
        for decorate in (_constraints, _indexes, _trigger, _rule, _policy, _statistics):
            if schema.chance():
                decorate(schema, name, columns)
        schema.comment("TABLE", name)
        for column in columns:
            schema.comment("COLUMN", f"{name}.{column.name}")
    name = schema.name()
    schema.add(
        f"CREATE TABLE {name} ()", f"INSERT INTO {name} SELECT FROM generate_series(1, {schema.number(0, 9)})"
    )


def _columns(schema: Drawn) -> list[Column]:
    taken: set[str] = set()
    return [_column(schema, taken) for _ in range(schema.number(2, 6))]


def _simple_columns(schema: Drawn) -> list[Column]:
    """Columns that children may have, too."""
    taken: set[str] = set()
    rests = ("", "NOT NULL")
    return [Column(schema.name(taken), schema.type(), schema.one_of(*rests)) for _ in range(2)]


def _column(schema: Drawn, taken: set[str]) -> Column:
    name, type_ = schema.name(taken), schema.type()
    default = f"DEFAULT {type_.values[0]}"
    rest = schema.one_of("", "", "NOT NULL", default, f"{default} NOT NULL", "identity", "generated")
    if rest == "identity":
        how = schema.one_of("ALWAYS", "BY DEFAULT")
        start, step = schema.number(-(2**31), 2**31), schema.one_of("1", "-3")
        options = f"(MINVALUE {-(2**31)} MAXVALUE {2**31} START {start} INCREMENT {step} CACHE 5)"
        return Column(name, Type.of("bigint", "1"), f"GENERATED {how} AS IDENTITY {options}")
    if rest == "generated":
        return Column(name, type_, f"GENERATED ALWAYS AS ({type_.values[-1]}) STORED")
    return Column(name, type_, rest)


def _fill(schema: Drawn, table: str, columns: list[Column], extra: Iterable[str] = ()) -> None:
    """Some rows, maybe none; `extra` are values for a first column of each row."""
    filled = [column for column in columns if column.filled]
    for first in (*extra, *[""] * schema.number(0, 3)):
        values = [*filter(None, [first]), *(schema.value(column) for column in filled)]
        names = [*(['"k"'] if first else []), *(column.name for column in filled)]
        given = f"({', '.join(names)}) VALUES ({', '.join(values)})" if values else "DEFAULT VALUES"
        schema.add(f"INSERT INTO {table} {given}")


def _constraints(schema: Drawn, table: str, columns: list[Column]) -> None:
    taken: set[str] = set()
    key, check = schema.name(), schema.name(taken)
    text = schema.text()
    schema.later += [
        f'ALTER TABLE {table} ADD COLUMN "k" integer GENERATED BY DEFAULT AS IDENTITY',
        f'ALTER TABLE {table} ADD CONSTRAINT {key} PRIMARY KEY ("k")',
        f"ALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({columns[0].name} IS NULL OR {text} <> '')"
        if columns
        else f"ALTER TABLE {table} ADD CONSTRAINT {check} CHECK (true) NO INHERIT",
        f'ALTER TABLE {table} ADD COLUMN "r" int4range',
        f'UPDATE {table} SET "r" = int4range("k", "k" + 1)',
        f"ALTER TABLE {table} ADD CONSTRAINT {schema.name()}"
        ' EXCLUDE USING gist ("r" WITH &&) WHERE ("k" > 0)',
        f'ALTER TABLE {table} ADD COLUMN "f" integer DEFAULT 1',
        f'ALTER TABLE {table} ADD CONSTRAINT {schema.name(taken)} FOREIGN KEY ("f") REFERENCES {table} ("k")'
        f" {schema.one_of('', 'ON DELETE CASCADE', 'ON UPDATE SET NULL DEFERRABLE')} NOT VALID",
    ]
    schema.comment("CONSTRAINT", f"{check} ON {table}")


def _indexes(schema: Drawn, table: str, columns: list[Column]) -> None:
    for column in columns:
        method = _HAS_INDEX.get(column.type.sql)
        index = schema.name()
        if method:
            schema.later.append(f"CREATE INDEX {index} ON {table} USING {method} ({column.name})")
        else:
            schema.later.append(
                f"CREATE INDEX {index} ON {table} (({column.name} IS NULL) DESC NULLS LAST)"
                f" WITH (fillfactor = 70) WHERE {column.name} IS NOT NULL"
            )
        schema.comment("INDEX", index)


def _trigger(schema: Drawn, table: str, columns: list[Column]) -> None:
    function, trigger = schema.name(), schema.name(set())
    of = f" OF {columns[0].name}" if columns else ""
    schema.later += [
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {literal(_TRIGGER_BODY)}",
        f"CREATE TRIGGER {trigger} AFTER UPDATE{of} ON {table} FOR EACH ROW"
        f" EXECUTE FUNCTION {function}({schema.text()})",
        f"ALTER TABLE {table} {schema.one_of('DISABLE', 'ENABLE ALWAYS', 'ENABLE')} TRIGGER {trigger}",
    ]
    schema.comment("TRIGGER", f"{trigger} ON {table}")


def _rule(schema: Drawn, table: str, columns: list[Column]) -> None:
    rule = schema.name(set())
    where = f"WHERE OLD.{columns[0].name} IS NULL" if columns else ""
    schema.later.append(f"CREATE RULE {rule} AS ON DELETE TO {table} {where} DO ALSO NOTHING")
    schema.comment("RULE", f"{rule} ON {table}")


def _policy(schema: Drawn, table: str, columns: list[Column]) -> None:
    policy = schema.name(set())
    using = f"{columns[0].name} IS NOT NULL" if columns else "true"
    schema.later += [
        f"CREATE POLICY {policy} ON {table} AS {schema.one_of('PERMISSIVE', 'RESTRICTIVE')}"
        f" TO {schema.one_of('PUBLIC', 'CURRENT_USER')} USING ({using}) WITH CHECK ({schema.text()} <> 'x')",
        f"ALTER TABLE {table} {schema.one_of('ENABLE', 'FORCE', 'DISABLE')} ROW LEVEL SECURITY",
    ]
    schema.comment("POLICY", f"{policy} ON {table}")


def _statistics(schema: Drawn, table: str, columns: list[Column]) -> None:
    if not columns:
        return
    statistics = schema.name()
    seen = columns[0].name
    schema.later.append(
        f"CREATE STATISTICS {statistics} (mcv) ON ({seen} IS NULL), ({seen} IS NOT NULL) FROM {table}"
    )
    schema.later.append(f"ALTER STATISTICS {statistics} SET STATISTICS {schema.number(0, 100)}")
    schema.comment("STATISTICS", statistics)


def _partitions(schema: Drawn) -> None:
    """By range, list and hash, levels below each other, and one attached with columns in another order."""
    top, low, high, odd, attached = (schema.name() for _ in range(5))
    columns = _simple_columns(schema)
    schema.add(
        f'CREATE TABLE {top} ("k" integer, {_list(columns)}) PARTITION BY RANGE ("k")',
        f'CREATE TABLE {low} PARTITION OF {top} FOR VALUES FROM (MINVALUE) TO (0) PARTITION BY HASH ("k")',
        f'CREATE TABLE {high} PARTITION OF {top} FOR VALUES FROM (0) TO (10) PARTITION BY LIST (("k" % 2))',
        f"CREATE TABLE {odd} PARTITION OF {high} FOR VALUES IN (1, NULL)",
        f"CREATE TABLE {schema.name()} PARTITION OF {high} DEFAULT",
        f"CREATE TABLE {schema.name()} PARTITION OF {low} FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        f"CREATE TABLE {schema.name()} PARTITION OF {low} FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        f'CREATE TABLE {attached} ({_list(reversed(columns))}, "k" integer)',
        f"ALTER TABLE {top} ATTACH PARTITION {attached} FOR VALUES FROM (10) TO (20)",
        f"CREATE TABLE {schema.name()} PARTITION OF {top} DEFAULT",
    )
    _fill(schema, top, columns, ("-7", "-2", "1", "2", "15", "99"))
    schema.later.append(f'CREATE INDEX {schema.name()} ON {top} ("k" DESC)')
    schema.comment("TABLE", odd)


def _inheritance(schema: Drawn) -> None:
    parent, child = schema.name(), schema.name()
    columns = _simple_columns(schema)
    own = Column('"own"', schema.type())
    schema.add(
        f"CREATE TABLE {parent} ({_list(columns)}, CHECK (true))",
        f"CREATE TABLE {child} ({own}) INHERITS ({parent})",
    )
    _fill(schema, parent, columns)
    _fill(schema, child, [*columns, own])


def _views(schema: Drawn) -> None:
    for table in schema.tables:
        view, copy = schema.name(), schema.name()
        options = schema.one_of("", "WITH (security_barrier)")
        schema.later += [
            f"CREATE VIEW {view} {options} AS SELECT * FROM {table} WHERE {schema.text()} <> 'x'",
            f"CREATE MATERIALIZED VIEW {copy} AS SELECT * FROM {view} WITH {schema.one_of('', 'NO')} DATA",
        ]
        schema.comment("VIEW", view)
        schema.comment("MATERIALIZED VIEW", copy)


def _sequence(schema: Drawn) -> None:
    sequence = schema.name()
    schema.add(
        f"CREATE SEQUENCE {sequence} AS smallint INCREMENT -2 MINVALUE -9 MAXVALUE 9 START 5 CACHE 2 CYCLE"
    )
    if schema.chance():
        schema.add(f"SELECT nextval({literal(sequence)}) FROM generate_series(1, {schema.number(1, 12)})")
    schema.comment("SEQUENCE", sequence)


def _list(columns: Iterable[Column]) -> str:
    return ", ".join(map(str, columns))
