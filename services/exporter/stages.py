"""The stages that pg_dump's stream passes, each in a thread of its own, joined by pipes.

    pg_dump ─► ReadAndCount ─► compress ─► encrypt ─► Cut ─► spool

A stage reads its source to the end and writes its sink; it holds at most one piece, so memory does not
grow with the dump. A stage that fails closes both ends: its neighbours stop, and nothing they did counts,
since success needs every stage to have ended well.
"""

import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from typing import Protocol

import pyrage
from isal import isal_zlib

from services.exporter.copy_counter import CopyCounter, Table
from services.exporter.tar_counter import TarCounter
from shared.contracts.job import Compression, Format
from shared.contracts.manifest import Part, Stream, part_limit
from shared.runtime.worker import Progress
from shared.storage.spool import Prefix, part_name, write_all

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor
else:
    from backports.zstd import ZstdCompressor

#: Small enough to stay in the processor's cache from one pass to the next, large enough for few calls.
PIECE_BYTES = 256 * 1024
#: Measured (docs/performance.md): level 3 takes 1.4 times the processor time for 4 % less, on a busy machine
#: more than twice, and its thread is then as slow as the server.
ZSTD_LEVEL = 1
GZIP_LEVEL = 1
GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS


class Stage(Protocol):
    """Reads `source` to its end and writes `sink`; the caller closes both."""

    def __call__(self, source: FileIO, sink: FileIO, /) -> None: ...


class Counter(Protocol):
    """Knows one of pg_dump's formats."""

    @property
    def rows(self) -> Mapping[Table, int]:
        """Rows of each table, once the stream has ended."""

    @property
    def complete(self) -> bool:
        """The stream ended where pg_dump ends it."""

    def feed(self, piece: bytearray, size: int) -> None:
        """Take the first `size` bytes of `piece`. Raises UnknownStream."""


Require = Callable[[int], None]
"""Raises a Failure when a stream may not grow to so many bytes."""


def unlimited(_size_bytes: int) -> None:
    """For whoever measures."""


COUNTERS: dict[Format, Callable[[], Counter]] = {Format.SQL: CopyCounter, Format.TAR: TarCounter}


@dataclass(slots=True)
class ReadAndCount:
    """Counts rows and bytes of the plain stream, and hashes it."""

    progress: Progress
    counter: Counter = field(default_factory=CopyCounter)
    require: Require = unlimited
    size_bytes: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def __call__(self, source: FileIO, sink: FileIO) -> None:
        piece = bytearray(PIECE_BYTES)
        view = memoryview(piece)
        while size := source.readinto(view):
            self.require(self.size_bytes + size)
            self.counter.feed(piece, size)
            self._digest.update(view[:size])
            self.size_bytes += size
            self.progress.counts["plain_bytes"] = self.size_bytes
            write_all(sink, view[:size])

    @property
    def plain(self) -> Stream:
        return Stream(size_bytes=self.size_bytes, sha256=self._digest.hexdigest())


def compress_zstd(source: FileIO, sink: FileIO) -> None:
    compressor = ZstdCompressor(level=ZSTD_LEVEL)
    _transform(source, sink, compressor.compress, compressor.flush)


def compress_gzip(source: FileIO, sink: FileIO) -> None:
    compressor = isal_zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WINDOW_BITS)
    _transform(source, sink, compressor.compress, compressor.flush)


COMPRESS: dict[Compression, Stage | None] = {
    Compression.ZSTD: compress_zstd,
    Compression.GZIP: compress_gzip,
    Compression.NONE: None,
}


@dataclass(frozen=True, slots=True)
class Encrypt:
    """age, for every recipient; the GIL is held for one 64 KiB chunk at a time."""

    recipients: Sequence[str]

    def __call__(self, source: FileIO, sink: FileIO) -> None:
        witness = _Witness(sink)
        try:
            pyrage.encrypt_io(source, witness, parsed_recipients(self.recipients))
        except pyrage.EncryptError as error:
            raise witness.error or error from error


@dataclass(slots=True)
class _Witness:
    """Remembers the sink's error: pyrage makes a text of it, and a broken pipe must be told from a cause."""

    sink: FileIO
    error: OSError | None = None

    def write(self, piece: bytes) -> int | None:
        try:
            return self.sink.write(piece)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing is buffered."""


@dataclass(slots=True)
class Cut:
    """Writes the stored stream to the spool in parts, and hashes parts and whole."""

    prefix: Prefix
    part_size_bytes: int
    progress: Progress
    require: Require = unlimited
    parts: list[Part] = field(default_factory=list)
    size_bytes: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def __call__(self, source: FileIO, _sink: FileIO) -> None:
        buffer = memoryview(bytearray(PIECE_BYTES))
        first = buffer[: source.readinto(buffer[: part_limit(0, self.part_size_bytes)])]
        while first:
            self._write_part(source, buffer, first)
            limit = part_limit(len(self.parts), self.part_size_bytes)
            first = buffer[: source.readinto(buffer[:limit])]

    @property
    def stored(self) -> Stream:
        return Stream(size_bytes=self.size_bytes, sha256=self._digest.hexdigest())

    def _write_part(self, source: FileIO, buffer: memoryview, first: memoryview) -> None:
        """Write one part; `first` is its beginning, so an empty part is never begun."""
        index = len(self.parts)
        limit = part_limit(index, self.part_size_bytes)
        digest = hashlib.sha256()
        size = 0
        with self.prefix.writing(part_name(index)) as file:
            piece = first
            while piece:
                self.require(self.size_bytes + size + len(piece))
                digest.update(piece)
                self._digest.update(piece)
                write_all(file, piece)
                size += len(piece)
                piece = buffer[: source.readinto(buffer[: limit - size])]
        self.size_bytes += size
        self.progress.counts["stored_bytes"] = self.size_bytes
        self.parts.append(Part(index=index, size_bytes=size, sha256=digest.hexdigest()))


def parsed_recipients(recipients: Sequence[str]) -> list["pyrage.x25519.Recipient"]:
    return [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]


def _transform(
    source: FileIO, sink: FileIO, step: Callable[[memoryview], bytes], end: Callable[[], bytes]
) -> None:
    for piece in _pieces(source):
        write_all(sink, step(piece))
    write_all(sink, end())


def _pieces(source: FileIO) -> Iterator[memoryview]:
    view = memoryview(bytearray(PIECE_BYTES))
    while size := source.readinto(view):
        yield view[:size]
