"""Counts rows per table while a tar archive of pg_dump streams by. Used by the pipeline's first stage.

The archive holds `toc.dat`, one `<number>.dat` of COPY data per table, and last `restore.sql`, a script that
names each table's file. Only a member's size says where it ends, so no row can look like the next header.
A cut archive lists and restores without an error; what tells the whole one is the script, two blocks of
zeros, and nothing behind them.
"""

import re
from dataclasses import dataclass
from typing import Protocol

from services.exporter.copy_counter import CopyCounter, Table, UnknownStream
from services.exporter.copy_rows import CopyRows

_BLOCK_BYTES = 512
_ZEROS = bytes(_BLOCK_BYTES)
_ZERO_BLOCKS = 2

_CONTENTS = "toc.dat"
_SCRIPT = "restore.sql"
_DATA = re.compile(r"[0-9]+\.dat")

_NAME = slice(0, 100)
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_TYPE = slice(156, 157)
_REGULAR_FILE = {b"0", b"\0"}
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_BINARY = 0x80


class _Member(Protocol):
    def feed(self, piece: bytearray, start: int, end: int) -> None: ...

    def end(self) -> None: ...


class _Contents:
    """The table of contents: for pg_restore only."""

    def feed(self, _piece: bytearray, _start: int, _end: int) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Data:
    """One table's data; after the end marker pg_dump writes empty lines only."""

    name: str
    rows: CopyRows

    def feed(self, piece: bytearray, start: int, end: int) -> None:
        behind = start if self.rows.ended else self.rows.feed(piece, start, end)
        if piece.count(b"\n", behind, end) != end - behind:
            raise UnknownStream(f"{self.name} goes on behind its end marker")

    def end(self) -> None:
        if not self.rows.ended:
            raise UnknownStream(f"{self.name} has no end marker")


@dataclass(frozen=True, slots=True)
class _Script:
    script: CopyCounter

    def feed(self, piece: bytearray, start: int, end: int) -> None:
        self.script.feed(piece[start:end], end - start)

    def end(self) -> None: ...


class TarCounter:
    """Feed it the stream in pieces; `rows` then holds (schema, table) -> rows."""

    def __init__(self) -> None:
        self.settled_bytes = 0  #: of the stream, up to where the member that streams by begins
        self._fed = 0  # bytes of the stream
        self._header = bytearray()  # the begun block between two members
        self._member: _Member | None = None  # inside this member, or its padding
        self._left = 0  # bytes of its content
        self._padding = 0  # bytes behind its content
        self._data: dict[str, CopyRows] = {}
        self._contents_came = False
        self._script: CopyCounter | None = None
        self._zero_blocks = 0

    @property
    def rows(self) -> dict[Table, int]:
        """Of the tables whose data came and that the script names; a table that lacks either has none."""
        files = self._script.files if self._script else {}
        return {table: self._data[name].rows for name, table in files.items() if name in self._data}

    @property
    def complete(self) -> bool:
        """The archive ended where pg_dump ends it."""
        return (
            self._zero_blocks == _ZERO_BLOCKS
            and not self._header
            and self._script is not None
            and self._script.complete
        )

    def feed(self, piece: bytearray, size: int) -> None:
        """Take the first `size` bytes of `piece`; they are not kept."""
        position = 0
        while position < size:
            if self._member is None:
                position = self._take_header(piece, position, size)
            else:
                position = self._take_member(self._member, piece, position, size)
        self._fed += size

    def _take_member(self, member: _Member, piece: bytearray, start: int, size: int) -> int:
        end = min(size, start + self._left)
        if self._left:
            member.feed(piece, start, end)
            self._left -= end - start
        behind = min(size, end + self._padding)
        self._padding -= behind - end
        if not self._left and not self._padding:
            member.end()
            self._member = None
            self.settled_bytes = self._fed + behind
        return behind

    def _take_header(self, piece: bytearray, start: int, size: int) -> int:
        end = min(size, start + _BLOCK_BYTES - len(self._header))
        self._header += piece[start:end]
        if len(self._header) == _BLOCK_BYTES:
            block = bytes(self._header)
            self._header.clear()
            self._between_members(block)
        return end

    def _between_members(self, block: bytes) -> None:
        if self._zero_blocks == _ZERO_BLOCKS or (self._zero_blocks and block != _ZEROS):
            raise UnknownStream("the archive goes on behind its end")
        if block == _ZEROS:
            self._zero_blocks += 1
            return
        name, self._left = _parsed(block)
        self._padding = -self._left % _BLOCK_BYTES
        self._member = self._begin(name)

    def _begin(self, name: str) -> _Member:
        if self._script is not None:
            raise UnknownStream(f"{name} comes behind {_SCRIPT}")
        if not self._contents_came:
            return self._begin_contents(name)
        if name == _SCRIPT:
            self._script = CopyCounter()
            return _Script(self._script)
        if not _DATA.fullmatch(name):
            raise UnknownStream(f"the archive holds {name}")
        if name in self._data:
            raise UnknownStream(f"{name} comes twice")
        self._data[name] = CopyRows()
        return _Data(name, self._data[name])

    def _begin_contents(self, name: str) -> _Member:
        if name != _CONTENTS:
            raise UnknownStream(f"the archive begins with {name}")
        self._contents_came = True
        return _Contents()


def _parsed(block: bytes) -> tuple[str, int]:
    """Name and size of the member behind this header."""
    blank = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    if sum(blank) != _number(block[_CHECKSUM]):
        raise UnknownStream("a header in the archive is damaged")
    name = block[_NAME].partition(b"\0")[0].decode(errors="replace")
    if block[_TYPE] not in _REGULAR_FILE:
        raise UnknownStream(f"{name} in the archive is no file")
    return name, _number(block[_SIZE])


def _number(field: bytes) -> int:
    """Octal digits; from 8 GiB on a binary number behind a first bit of 1."""
    if field[0] & _BINARY:
        return int.from_bytes(field) - (_BINARY << 8 * (len(field) - 1))
    octal = _OCTAL.fullmatch(field)
    if octal is None:
        raise UnknownStream("a header in the archive is damaged")
    return int(octal[1], 8)
