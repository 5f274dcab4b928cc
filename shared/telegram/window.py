"""A file as the HTTP library wants it: readable, seekable, and without a descriptor.

httpx rewinds to 0 before sending and takes the length from `fileno()` where there is one; this class
has none, so that what is sent is exactly the window and a retry begins at its start.
"""

import hashlib
import io
from typing import BinaryIO

import telegram


class Altered(telegram.error.TelegramError):
    """The file is not the one that was to be sent. What has left is no whole request: nobody will use it."""


class Window(io.RawIOBase):
    def __init__(self, file: io.FileIO | BinaryIO, size: int) -> None:
        super().__init__()
        self._file = file
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._file.seek(self._position)
        piece = self._file.read(left if size < 0 else min(size, left)) or b""
        self._position += len(piece)
        return piece


class CheckedWindow(Window):
    """Gives its last piece away only if the whole has this SHA-256; raises Altered instead."""

    def __init__(self, file: io.FileIO | BinaryIO, size: int, sha256: str) -> None:
        super().__init__(file, size)
        self._sha256 = sha256
        self._digest = hashlib.sha256()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = super().seek(offset, whence)
        if position == 0:
            self._digest = hashlib.sha256()
        return position

    def read(self, size: int = -1) -> bytes:
        piece = super().read(size)
        self._digest.update(piece)
        is_last = self._position >= self._size or not piece
        if is_last and self._digest.hexdigest() != self._sha256:
            raise Altered("the file was altered")
        return piece
