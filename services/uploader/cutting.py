"""Cuts an operator's file into parts, each copied into a private folder for the time that it is sent.

What is hashed is the copy, and the copy is what is sent: a file that is written to meanwhile makes a backup
that is true to its own hashes.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from shared.contracts.errors import PermanentError
from shared.contracts.manifest import Part, Stream, part_sizes

_PIECE_BYTES = 1024 * 1024


@contextmanager
def copying(name: str) -> Iterator[None]:
    """Raises PermanentError `file_unreadable` for what this machine's disks refuse."""
    try:
        yield
    except OSError as error:
        raise PermanentError(
            "file_unreadable", f"{name} cannot be read or copied: {error.strerror}."
        ) from error


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or bytes that are to be one; `name` is its own, without a folder."""

    name: str
    content: Path | bytes = field(repr=False)

    @contextmanager
    def opened(self) -> Iterator[tuple[BinaryIO, int]]:
        """Its stream, and how much of it is to be sent. Raises OSError, or PermanentError `file_empty`."""
        if isinstance(self.content, Path) and not self.content.is_file():  # a pipe would be waited for
            raise PermanentError("file_missing", f"{self.content} is not there, or is no file.")
        with self.content.open("rb") if isinstance(self.content, Path) else BytesIO(self.content) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            if not size:
                raise PermanentError("file_empty", f"{self.name} is empty: Telegram takes no empty document.")
            yield stream, size


@dataclass(frozen=True, slots=True)
class Piece:
    """One part, at `path` until the next one is asked for."""

    part: Part
    path: Path
    parts: int  #: of the whole file


@dataclass(slots=True)
class Cutting:
    """Gives a source's parts, one after the other; then `stored` says what they were."""

    source: Source
    part_size_bytes: int
    size_bytes: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Raises PermanentError for a file that cannot be read or be a document, or became shorter."""
        with (
            copying(self.source.name),
            self.source.opened() as (stream, size),
            tempfile.TemporaryDirectory(prefix="pgferry-") as folder,
        ):
            sizes = part_sizes(size, self.part_size_bytes)
            path = Path(folder, "part")
            for index, part_size in enumerate(sizes):
                part = await asyncio.to_thread(self._copied, stream, path, index, part_size)
                yield Piece(part, path, len(sizes))

    @property
    def stored(self) -> Stream:
        return Stream(size_bytes=self.size_bytes, sha256=self._digest.hexdigest())

    def _copied(self, stream: BinaryIO, path: Path, index: int, size: int) -> Part:
        digest, left = hashlib.sha256(), size
        with path.open("wb") as file:
            while left:
                piece = stream.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise PermanentError(
                        "file_changed", f"{self.source.name} became shorter while it was read."
                    )
                digest.update(piece)
                self._digest.update(piece)
                file.write(piece)
                left -= len(piece)
        self.size_bytes += size
        return Part(index=index, size_bytes=size, sha256=digest.hexdigest())
