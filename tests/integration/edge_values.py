"""Every built-in type with the values at its edges, as SQL, for schemas that tests make.

The floor is PostgreSQL 14, so the intervals have no infinity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Line ends, end markers and escapes of COPY, quotes of SQL, and what breaks a careless reader of either.
AWKWARD_TEXTS = (
    *["", " ", "\t", "\n", "\r\n", "\\", "\\.", "\n\\.\n", "\\N", "NULL", "a\tb\\tc", "\x01\x7f", "\b\f\v"],
    *[
        "it's",
        '"',
        "$$",
        "$x$",
        "E'\\'",
        "--",
        "/* ",
        ";",
        "%s {} $1",
        "\u202eright",
        "漢字 \U0001f600",
        "e\u0301",
    ],
    *["\n-- PostgreSQL database dump complete\n", 'COPY "a"."b" ("c") FROM stdin;\n1\n\\.\n', "x" * 2100],
)

#: A value of these cannot be written, or not by a person: they are made by the server for itself.
WITHOUT_INPUT = frozenset(
    {
        *["gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies"],
        *["pg_mcv_list", "pg_ndistinct", "pg_node_tree"],
    }
)

_MOMENTS = ("infinity", "-infinity", "2000-02-29 23:59:59.999999", "0001-12-31 00:00:00.000001 BC")

_EDGES = {
    "aclitem": ("=/postgres", "postgres=arwdDxt/postgres"),
    "bigint": ("0", "-9223372036854775808", "9223372036854775807"),
    "bit(8)": ("00000000", "10000001"),
    "bit varying": ("", "1", "0101010101010101010101"),
    "boolean": ("t", "f"),
    "box": ("(0,0),(0,0)", "(Infinity,1e-300),(-Infinity,NaN)"),
    "bytea": (r"\x", r"\x00", r"\x5c2e0a", r"\x" + bytes(range(256)).hex()),
    '"char"': ("", "a", "\\"),
    "character(5)": ("", "a", "\t\\\n'\""),
    "character varying(8)": ("", "  x  ", "漢字漢字漢字漢字"),
    "cid": ("0", "4294967295"),
    "cidr": ("0.0.0.0/0", "10.1.0.0/16", "::/0", "2001:db8::/32"),
    "circle": ("<(0,0),0>", "<(1e300,-1e-300),Infinity>"),
    "date": ("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "0001-01-01 BC", "2000-02-29"),
    "double precision": (
        *["NaN", "Infinity", "-Infinity", "0", "-0", "5e-324", "1.7976931348623157e308"],
        *["0.1", "0.30000000000000004", "2.2250738585072014e-308"],
    ),
    "inet": ("255.255.255.255", "192.168.1.5/24", "::", "::ffff:1.2.3.4", "2001:db8::1/64"),
    "int2vector": ("", "1 -32768 32767"),
    "integer": ("0", "-2147483648", "2147483647"),
    "interval": (
        *[
            "0",
            "178000000 years",
            "-178000000 years",
            "1 mon -1 day +00:00:00.000001",
            "-1 year +1 day -0.5 s",
        ],
    ),
    "json": ("null", '{"b" : 1,  "a":[ ], "b": 2}', '"\\u0000"', "1e400", ' "x" ', '"\\\\."'),
    "jsonb": ("null", "{}", "[[[]]]", '{"": {"k": [1.10, -0, 1e-5, true]}}', '"\\n\\\\. \\ud83d\\ude00"'),
    "jsonpath": ("$", 'strict $."a b"[*] ? (@.x > 1 && @ like_regex "^\\\\." flag "i")'),
    "line": ("{1,0,0}", "{0,-1,1e300}"),
    "lseg": ("[(0,0),(0,0)]", "[(-0,1),(Infinity,NaN)]"),
    "macaddr": ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"),
    "macaddr8": ("00:00:00:00:00:00:00:00", "08:00:2b:ff:fe:01:02:03"),
    "money": ("0", "-92233720368547758.08", "92233720368547758.07"),
    "name": ("", "x" * 63, "it's \""),
    "numeric": (
        *["NaN", "Infinity", "-Infinity", "0", "0.000", "-1e-1000", "1e1000"],
        *["123456789012345678901234567890.0123456789"],
    ),
    "numeric(6,2)": ("NaN", "-9999.99", "0.01"),
    "oid": ("0", "4294967295"),
    "oidvector": ("", "0 4294967295"),
    "path": ("((0,0))", "[(0,0),(1,-1e-300),(NaN,Infinity)]", "((1,2),(3,4))"),
    "pg_lsn": ("0/0", "FFFFFFFF/FFFFFFFF"),
    "pg_snapshot": ("1:1:", "10:20:10,14,15"),
    "point": ("(0,-0)", "(NaN,Infinity)", "(5e-324,1.7976931348623157e308)"),
    "polygon": ("((0,0))", "((0,0),(0,1e300),(1,0))"),
    "real": ("NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "0.1", "16777217"),
    "refcursor": ("", 'a "cursor"'),
    "regclass": ("-", "pg_catalog.pg_class"),
    "regcollation": ("-", 'pg_catalog."C"'),
    "regconfig": ("-", "pg_catalog.simple"),
    "regdictionary": ("-", "pg_catalog.simple"),
    "regnamespace": ("-", "pg_catalog"),
    "regoper": ("0", "pg_catalog.||/"),
    "regoperator": ("0", "pg_catalog.+(integer,integer)", "pg_catalog.-(none,bigint)"),
    "regproc": ("-", "pg_catalog.now"),
    "regprocedure": ("-", "pg_catalog.abs(double precision)"),
    "regrole": ("-", "postgres"),
    "regtype": ("-", "double precision[]", '"char"'),
    "smallint": ("0", "-32768", "32767"),
    "text": AWKWARD_TEXTS,
    "tid": ("(0,0)", "(4294967295,65535)"),
    "time without time zone": ("00:00:00", "24:00:00", "23:59:59.999999"),
    "time with time zone": ("00:00:00+15:59:59", "24:00:00-15:59:59", "12:00:00.000001+00"),
    "timestamp without time zone": (*_MOMENTS, "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999"),
    "timestamp(0) without time zone": ("2000-01-01 00:00:00.5",),
    "timestamp with time zone": (*_MOMENTS, "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"),
    "tsquery": ("", "'a' & !( 'b':*A <-> 'it''s' ) | 'c\\\\'", "'x' <5> 'y':ABCD"),
    "tsvector": ("", "'a':1A,2B,16383 'it''s' 'b c':3C '\\\\'"),
    "txid_snapshot": ("1:1:", "10:20:10,14,15"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "xid": ("0", "4294967295"),
    "xid8": ("0", "18446744073709551615"),
    "xml": ("", "no element", '<a b="&lt;"><!-- c --><![CDATA[ \\. ]]>\n</a>', "<a/><b/>"),
    "int4range": ("empty", "(,)", "[-2147483648,2147483647)", "[1,2)"),
    "int8range": ("empty", "(,9223372036854775807)"),
    "numrange": ("empty", "(-Infinity,NaN]", "[0.0,0.00]"),
    "daterange": ("empty", "[-infinity,infinity]", "[4713-01-01 BC,)"),
    "tsrange": ("empty", '["0001-01-01 BC",infinity)', '("2000-01-01 00:00:00.000001",]'),
    "tstzrange": ("empty", "[-infinity,]", '["2000-01-01 00:00:00+00","2000-01-01 00:00:00+00"]'),
    "int4multirange": ("{}", "{(,)}", "{[1,2),[5,7),[9,)}"),
    "int8multirange": ("{}", "{[-9223372036854775808,0)}"),
    "nummultirange": ("{}", "{(,0.5),(0.5,)}"),
    "datemultirange": ("{}", "{[2000-01-01,2000-01-02),[2001-01-01,infinity]}"),
    "tsmultirange": ("{}", '{["2000-01-01 00:00:00","2000-01-02 00:00:00")}'),
    "tstzmultirange": ("{}", '{(,"2000-01-01 00:00:00+00")}'),
}


@dataclass(frozen=True, slots=True)
class Type:
    """A type as SQL writes it, and expressions for values of it that are not null."""

    sql: str
    values: tuple[str, ...]

    @classmethod
    def of(cls, sql: str, *texts: str) -> "Type":
        """With values in their text form."""
        return cls(sql, tuple(f"{literal(text)}::{sql}" for text in texts))

    @property
    def arrays(self) -> "Type":
        """Arrays of it: empty, with NULLs, of two dimensions, not counted from one."""
        first, last, sql = self.values[0], self.values[-1], f"{self.sql}[]"
        values = [
            f"'{{}}'::{sql}",
            f"ARRAY[{', '.join(self.values)}, NULL]::{sql}",
            f"ARRAY[[{first}, NULL], [{last}, {first}]]::{sql}",
        ]
        if self in TYPES:  # a domain over an array is no element
            values.append(f"array_fill({last}, ARRAY[2], ARRAY[-1])::{sql}")
        return Type(sql, tuple(values))


def literal(text: str) -> str:
    """A string of SQL, with standard_conforming_strings."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name of SQL."""
    return '"' + name.replace('"', '""') + '"'


TYPES = tuple(Type.of(sql, *texts) for sql, texts in _EDGES.items())


def every_type(types: Sequence[Type]) -> list[str]:
    """Two tables with a column for each type and for arrays of it, and a row for each value."""
    return [
        statement
        for table, columns in (("scalars", types), ("arrays", [type_.arrays for type_ in types]))
        for statement in _one_table(table, columns)
    ]


def _one_table(name: str, types: Sequence[Type]) -> Iterator[str]:
    yield f"CREATE TABLE {name} ({', '.join(f'c{at} {type_.sql}' for at, type_ in enumerate(types))})"
    for at, type_ in enumerate(types):
        for value in type_.values:
            yield f"INSERT INTO {name} (c{at}) VALUES ({value})"
