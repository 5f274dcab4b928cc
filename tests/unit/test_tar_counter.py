r"""A tar archive's rows are counted right and its end is known, wherever the stream is split or cut."""

from __future__ import annotations

import io
import tarfile
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.exporter.copy_counter import UnknownStream
from services.exporter.newlines import count_newlines
from services.exporter.tar_counter import TarCounter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

END = b"\\.\n\n\n"
ZEROS = bytes(1024)
COMPLETION = b"--\n-- PostgreSQL database dump complete\n--\n\n"
SCRIPT = (
    rb"""--
-- NOTE:
--
-- File paths need to be edited. Search for $$PATH$$ and
-- replace it with the path to the directory containing
-- the extracted data files.
--
\unrestrict (null)
\connect "it's"
\restrict (null)
CREATE FUNCTION "t"."f"() RETURNS "text"
    LANGUAGE "sql"
    AS $_$ SELECT '
COPY "t"."evil" ("a") FROM ''$$PATH$$/1.dat'';
COPY "t"."evil" ("a") FROM '$$PATH$$/1.dat';
' $_$;
COMMENT ON TABLE "t"."a" IS '
COPY "t"."evil" ("a") FROM ''$$PATH$$/1.dat'';
';

COPY "t"."a" ("id", "x") FROM stdin;
\.
COPY "t"."a" ("id", "x") FROM '$$PATH$$/1.dat';

COPY "t"."no columns"  FROM stdin;
\.
COPY "t"."no columns"  FROM '$$PATH$$/3002.dat';

COPY "t"."ta""ble/$$PATH$$/1.dat
" ("a") FROM stdin;
\.
COPY "t"."ta""ble/$$PATH$$/1.dat
" ("a") FROM '$$PATH$$/20.dat';

"""
    + COMPLETION
)


def member(name: str, content: bytes) -> bytes:
    """As Python's own library writes it, padded."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def link(name: str) -> bytes:
    header = tarfile.TarInfo(name)
    header.type = tarfile.SYMTYPE
    return header.tobuf()


LOOKS_LIKE_MORE = b"".join(
    [
        b'1\tCOPY "t"."no columns"  FROM \'$$PATH$$/1.dat\';\n',
        b'2\tCOPY "t"."a" ("id") FROM stdin;\n',
        b"3\t\\\\.\n",
        b"\\N\t\\\\.\\n\\\\.\n",
        member("9.dat", b"7\n\\\\.\n\n\n"),
        ZEROS,
        b"\n",
        COMPLETION,
    ]
)
CONTENTS = member("toc.dat", b"PGDMP" + bytes(range(256)) * 5)
FIRST = member("1.dat", LOOKS_LIKE_MORE + END)
SECOND = member("3002.dat", b"\n\n\n\n\n" + END)
EMPTY = member("20.dat", END)
RESTORE = member("restore.sql", SCRIPT)
SAMPLE = CONTENTS + FIRST + SECOND + EMPTY + RESTORE + ZEROS
ROWS = {
    ("t", "a"): LOOKS_LIKE_MORE.count(b"\n"),
    ("t", "no columns"): 5,
    ("t", 'ta"ble/$$PATH$$/1.dat\n'): 0,
}


def fed(archive: bytes, sizes: Iterable[int]) -> TarCounter:
    """A counter that got the archive in pieces of these sizes, repeated, through one reused buffer."""
    counter = TarCounter()
    buffer = bytearray(max(len(archive), 1))
    position = 0
    for size in cycle(sizes):
        piece = archive[position : position + size]
        if not piece:
            return counter
        buffer[: len(piece)] = piece
        counter.feed(buffer, len(piece))
        position += len(piece)
    return counter


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 511, 512, 513, 1024, len(SAMPLE)])
def test_pieces_of_any_size_give_the_same_counts(size: int) -> None:
    """Of an archive whose rows look like headers, statements and ends; the sizes say where members end."""
    counter = fed(SAMPLE, [size])

    assert counter.rows == ROWS
    assert counter.complete


@settings(max_examples=80, deadline=None)
@given(cut=st.integers(0, len(SAMPLE) - 1), sizes=st.lists(st.integers(1, 700), min_size=1, max_size=4))
def test_a_cut_archive_is_never_complete(cut: int, sizes: Sequence[int]) -> None:
    """Though its tables list and its rows restore without an error."""
    assert not fed(SAMPLE[:cut], sizes).complete


@pytest.mark.parametrize("cut", [1, 511, 512, 513, 1023, 1024, 1025])
def test_both_blocks_of_zeros_must_come_whole(cut: int) -> None:
    """They are the archive's end."""
    assert not fed(SAMPLE[:-cut], [4096]).complete


@pytest.mark.parametrize("more", [b"\0", b"x", b"\0" * 511])
def test_nothing_may_come_behind_the_end(more: bytes) -> None:
    """Less than a block is not even a member."""
    assert not fed(SAMPLE + more, [4096]).complete


SPOILED = {
    "the archive goes on behind its end": [
        SAMPLE + bytes(512),
        SAMPLE + FIRST,
        SAMPLE[:-512] + FIRST,
    ],
    "1.dat comes behind restore.sql": [SAMPLE[: -len(ZEROS)] + FIRST + ZEROS],
    "restore.sql comes behind restore.sql": [SAMPLE[: -len(ZEROS)] + RESTORE + ZEROS],
    "1.dat comes twice": [CONTENTS + FIRST + FIRST],
    "the archive begins with 1.dat": [FIRST],
    "the archive begins with restore.sql": [RESTORE],
    "the archive holds blobs.toc": [CONTENTS + member("blobs.toc", b"")],
    "the archive holds toc.dat": [CONTENTS + CONTENTS],
    "1.dat has no end marker": [CONTENTS + member("1.dat", b"1\n2\n"), CONTENTS + member("1.dat", b"1\\.\n")],
    "1.dat goes on behind its end marker": [
        CONTENTS + member("1.dat", b"1\n\\.\n2\n\\.\n\n\n"),
        CONTENTS + member("1.dat", END + b"\0"),
    ],
    "a header in the archive is damaged": [
        SAMPLE.replace(b"3002.dat", b"3003.dat", 1),
        b"COPY" + SAMPLE,
        SAMPLE[1:],
    ],
    "toc.dat in the archive is no file": [link("toc.dat")],
}


@pytest.mark.parametrize(
    ("sentence", "archive"), [(why, archive) for why, archives in SPOILED.items() for archive in archives]
)
def test_what_pg_dump_does_not_write_is_refused(sentence: str, archive: bytes) -> None:
    """Nobody knows which rows such an archive holds."""
    with pytest.raises(UnknownStream, match=sentence):
        fed(archive, [1000])


def test_a_table_whose_file_is_missing_has_no_rows() -> None:
    """Then the dump is refused: the snapshot has a table more."""
    counter = fed(CONTENTS + FIRST + EMPTY + RESTORE + ZEROS, [4096])

    assert counter.rows == {table: rows for table, rows in ROWS.items() if table != ("t", "no columns")}


def test_a_script_that_breaks_off_completes_nothing() -> None:
    """Its member may be whole and still hold less than pg_dump had to say."""
    for script in (SCRIPT[: -len(COMPLETION)], SCRIPT.replace(b"dump complete", b"dump complet"), b""):
        counter = fed(CONTENTS + FIRST + SECOND + EMPTY + member("restore.sql", script) + ZEROS, [4096])

        assert not counter.complete


def test_an_archive_without_its_script_is_not_complete() -> None:
    """Only the script says whose rows they are."""
    assert not fed(CONTENTS + FIRST + SECOND + EMPTY + ZEROS, [4096]).complete


GIB = 1024**3


@pytest.mark.parametrize(
    "size",
    [8 * GIB - 1, 8 * GIB, 9 * GIB + 77],
    ids=["octal", "binary", "binary with padding"],
)
def test_a_member_may_be_larger_than_eight_gibibytes(size: int) -> None:
    """Eleven octal digits end there; pg_dump goes on in binary."""
    header = tarfile.TarInfo("toc.dat")
    header.size = size
    whole = size + (-size % 512)
    counter = TarCounter()
    counter.feed(bytearray(header.tobuf(tarfile.GNU_FORMAT)), 512)
    piece = bytearray(64 * 1024**2)

    for _ in range(whole // len(piece)):
        counter.feed(piece, len(piece))
    rest = bytes(whole % len(piece)) + SAMPLE[len(CONTENTS) :]
    counter.feed(bytearray(rest), len(rest))

    assert counter.rows == ROWS
    assert counter.complete


def test_what_is_settled_grows_with_whole_members_only() -> None:
    """pg_dump has the member that streams by in a temporary file of the same size."""
    counter = TarCounter()
    settled = []
    for byte in SAMPLE:
        counter.feed(bytearray([byte]), 1)
        settled.append(counter.settled_bytes)

    ends = [len(CONTENTS), len(CONTENTS + FIRST), len(CONTENTS + FIRST + SECOND)]
    ends += [len(CONTENTS + FIRST + SECOND + EMPTY), len(SAMPLE) - len(ZEROS)]
    assert sorted(set(settled)) == [0, *ends]
    assert [settled.index(end) + 1 for end in ends] == ends


# Generated archives: rows that try to look like headers, markers and statements, in pieces of any size.

LINE = st.one_of(
    st.sampled_from([b"\\\\.", b".", b"\\N", b"", b"\t\\\\.", FIRST[:512].replace(b"\n", b" "), ZEROS]),
    st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"").replace(b"\\", b"")),
)
TABLES = st.lists(st.lists(LINE, max_size=8), max_size=4)


@settings(max_examples=50, deadline=None)
@given(tables=TABLES, sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=5))
def test_generated_archives_are_counted_exactly(
    tables: Sequence[Sequence[bytes]], sizes: Sequence[int]
) -> None:
    """Whatever the rows hold, and wherever the pieces end."""
    script = b"".join(
        b'COPY "t"."%d"  FROM stdin;\n\\.\nCOPY "t"."%d"  FROM \'$$PATH$$/%d.dat\';\n\n' % (n, n, n + 7)
        for n in range(len(tables))
    )
    members = b"".join(
        member(f"{n + 7}.dat", b"".join(line + b"\n" for line in lines) + END)
        for n, lines in enumerate(tables)
    )
    archive = CONTENTS + members + member("restore.sql", script + b"\n" + COMPLETION) + ZEROS

    counter = fed(archive, sizes)

    assert counter.rows == {("t", str(n)): len(lines) for n, lines in enumerate(tables)}
    assert counter.complete


@pytest.mark.parametrize(
    "piece", [b"\n" * 200_000, b"x\n" * 100_000, b"\0" * 70_000, bytes(range(256)) * 300, b"\n", b""]
)
def test_newlines_are_counted_in_any_range(piece: bytes) -> None:
    """Also where every byte is one, and the sum is as large as it can be."""
    for start, end in ((0, len(piece)), (1, len(piece)), (0, len(piece) // 2), (len(piece), len(piece))):
        assert count_newlines(bytearray(piece), start, end) == piece.count(b"\n", start, end)


def test_archive_of_the_library_is_what_the_library_reads() -> None:
    """The test's own archives are good ones."""
    with tarfile.open(fileobj=io.BytesIO(SAMPLE)) as archive:
        assert archive.getnames() == ["toc.dat", "1.dat", "3002.dat", "20.dat", "restore.sql"]
