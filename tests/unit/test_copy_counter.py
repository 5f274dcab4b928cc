r"""Rows are counted right, whatever the SQL around them looks like and wherever the stream is split."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.exporter.copy_counter import CopyCounter, UnknownStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SAMPLE = rb"""--
-- PostgreSQL database dump
--

\restrict abc'$def

SET standard_conforming_strings = on;
CREATE FUNCTION "t"."f"() RETURNS void LANGUAGE plpgsql AS $_$
COPY "t"."evil" ("a") FROM stdin;
1
\.
it's; $1
$_$;
COMMENT ON TABLE "t"."a" IS 'it''s ;
COPY "t"."evil2" ("a") FROM stdin;
';
SELECT E'\';\n''';
/* a /* nested */ ; COPY "t"."evil4" FROM stdin; */
--
-- Data for Name: a; Type: TABLE DATA; Schema: t; Owner: -
--

COPY "t"."a" ("id", "x,"")y") FROM stdin;
1	a
2	COPY "t"."evil3" ("a") FROM stdin;
3	\\.
\N	x
\.


COPY "t"."empty" ("id") FROM stdin;
\.

COPY "t"."no columns"  FROM stdin;


\.

COPY "t"."with
newline" ("id") FROM stdin;
\\.
.
\.

SELECT pg_catalog.setval('"t"."s"', 1, false);
--
-- PostgreSQL database dump complete
--

\unrestrict abc'$def

"""
ROWS = {("t", "a"): 4, ("t", "empty"): 0, ("t", "no columns"): 2, ("t", "with\nnewline"): 2}


def fed(dump: bytes, sizes: Iterable[int]) -> CopyCounter:
    """A counter that got the dump in pieces of these sizes, repeated, through one reused buffer."""
    counter = CopyCounter()
    buffer = bytearray(max(len(dump), 1))
    position = 0
    for size in cycle(sizes):
        piece = dump[position : position + size]
        if not piece:
            return counter
        buffer[: len(piece)] = piece
        counter.feed(buffer, len(piece))
        position += len(piece)
    return counter


@pytest.mark.parametrize("size", [*range(1, 61), len(SAMPLE)])
def test_pieces_of_any_size_give_the_same_counts(size: int) -> None:
    """A dump that has one of everything, split everywhere."""
    counter = fed(SAMPLE, [size])

    assert counter.rows == ROWS
    assert counter.between_statements


@pytest.mark.parametrize("size", [3, 64])
def test_a_cut_stream_ends_inside_something_or_lacks_a_table(size: int) -> None:
    """Until the last end marker has come, no cut looks like the whole."""
    last_data = SAMPLE.rindex(b"\n\\.\n") + len(b"\n\\.\n")
    for cut in range(last_data):
        counter = fed(SAMPLE[:cut], [size])

        assert not counter.between_statements or counter.rows != ROWS


def test_the_same_table_twice_is_not_what_pg_dump_writes() -> None:
    """Adding both up would let one table's rows stand for another's."""
    block = b'COPY "t"."a" ("id") FROM stdin;\n1\n\\.\n'
    counter = CopyCounter()
    counter.feed(bytearray(block), len(block))

    with pytest.raises(UnknownStream, match=r"t\.a comes twice"):
        counter.feed(bytearray(block), len(block))


@pytest.mark.parametrize(
    "statement",
    [
        b"COPY (SELECT 1) TO stdout;",
        b'COPY "t"."a" ("id") TO stdout;',
        b'COPY "t"."a" ("id") FROM stdin WITH (FORMAT csv);',
        b'SELECT 1; COPY "a" FROM stdin;',
        b'COPY "t"."a" ("id") FROM stdin; SELECT 1;',
    ],
)
def test_what_pg_dump_does_not_write_opens_no_block(statement: bytes) -> None:
    """Then the table is missing and the dump is refused, not miscounted."""
    assert fed(statement + b"\n1\n\\.\n", [5]).rows == {}


@pytest.mark.timeout(15)
def test_a_long_statement_takes_time_in_proportion_to_its_length() -> None:
    """A tenant chooses its comments; a megabyte of quotes must not hold a slot for hours."""
    text = b'COMMENT ON SCHEMA "t" IS \'' + b"'' ;" * 250_000 + b"';\n"

    assert fed(text + SAMPLE, [64 * 1024]).rows == ROWS


# Generated dumps: what pg_dump writes, with names, rows and texts that try to look like something else.

TRICKY = st.lists(
    st.sampled_from(
        [
            *["'", '"', "''", '"";', "$$", "$_$", "$1", "--", "/*", "*/", "\\", "\\'", "\\.", "\n\\.\n"],
            *["\n", ";", ";\n", " ", "E'", "x", "1\t2\n", "é", "漢", "\\N", "\\restrict x\n", "\r", "\x7f"],
            'COPY "t"."fake" ("a") FROM stdin;\n',
            '\nCOPY "t"."fake"  FROM stdin;\n\\.\n',
            "\n-- PostgreSQL database dump complete\n",
        ]
    ),
    max_size=8,
).map("".join)
TEXT = TRICKY | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAME = TEXT.filter(bool)

_COPY_ESCAPES = str.maketrans(
    {"\\": r"\\", "\n": r"\n", "\t": r"\t", "\r": r"\r", "\b": r"\b", "\f": r"\f", "\v": r"\v"}
)


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def escape_string(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def dollar_quoted(text: str) -> str:
    return f"$body0${text}$body0$"


def nested_comment(text: str) -> str:
    return f"/* a /* {text.replace('*', '')} */ ; 'b */"


def line_comment(text: str) -> str:
    return "-- " + text.replace("\n", " ") + "\n"


def statement(text: str) -> str:
    return f"COMMENT ON TABLE {identifier(text or 'a')} IS NULL;\n"


SQL = st.one_of(
    TEXT.map(lambda text: f"COMMENT ON TABLE x IS {literal(text)};\n\n"),
    TEXT.map(lambda text: f"SELECT {escape_string(text)}, {literal(text)};\n"),
    TEXT.map(lambda text: f"CREATE FUNCTION f() RETURNS void AS {dollar_quoted(text)};\n"),
    TEXT.map(lambda text: f"CREATE VIEW v AS\n SELECT {literal(text)}::text AS {identifier(text or 'a')};\n"),
    TEXT.map(lambda text: nested_comment(text) + "\n"),
    TEXT.map(line_comment),
    TEXT.map(statement),
    st.sampled_from(["\n", "\\restrict it's$a$\n", "SET default_tablespace = '';\n", "SELECT a$b$c;\n"]),
)

ROW = st.lists(st.none() | TEXT, max_size=3)


@st.composite
def copies(draw: st.DrawFn) -> tuple[str, int, str]:
    """A table's name, its number of rows, and its COPY block."""
    name = draw(NAME)
    columns = draw(st.lists(NAME, max_size=3))
    rows = draw(st.lists(ROW, max_size=6))
    listed = f"({', '.join(map(identifier, columns))})" if columns else ""
    lines = [
        "\t".join("\\N" if value is None else value.translate(_COPY_ESCAPES) for value in row) + "\n"
        for row in rows
    ]
    block = f'COPY "sch""ema".{identifier(name)} {listed} FROM stdin;\n{"".join(lines)}\\.\n'
    return name, len(rows), block


@st.composite
def dumps(draw: st.DrawFn) -> tuple[bytes, dict[tuple[str, str], int]]:
    blocks = draw(st.lists(copies(), max_size=4, unique_by=lambda block: block[0]))
    text = ""
    for _, _, block in blocks:
        text += "".join(draw(st.lists(SQL, max_size=4))) + block
    text += "".join(draw(st.lists(SQL, max_size=4)))
    return text.encode(), {('sch"ema', name): rows for name, rows, _ in blocks}


@settings(max_examples=60, deadline=None)
@given(dump=dumps(), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_generated_dumps_are_counted_exactly(
    dump: tuple[bytes, dict[tuple[str, str], int]], sizes: Sequence[int]
) -> None:
    """Names, rows, comments, strings and function bodies may hold anything."""
    text, rows = dump

    counter = fed(text, sizes)

    assert counter.rows == rows
    assert counter.between_statements
