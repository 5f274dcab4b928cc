"""A file as the HTTP library wants it: what it reads is what is sent."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import httpx
import pytest

from shared.telegram.window import Altered, CheckedWindow, Window

CONTENT = bytes(range(256)) * 800
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[io.FileIO]:
    path = tmp_path / "part"
    path.write_bytes(CONTENT)
    with path.open("rb", buffering=0) as opened:
        yield opened


def test_the_whole_is_read_in_pieces(file: io.FileIO) -> None:
    """Each as long as asked for, until nothing is left."""
    window = Window(file, len(CONTENT))
    pieces = [window.read(65_536) for _ in range(5)]

    assert [len(piece) for piece in pieces] == [65_536, 65_536, 65_536, 8_192, 0]
    assert b"".join(pieces) == CONTENT


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_nothing_beyond_the_window_is_read(file: io.FileIO, size: int) -> None:
    """Also when everything is asked for: the file may go on."""
    assert Window(file, size).read() == CONTENT[:size]
    assert Window(file, size).read(size + 5) == CONTENT[:size]


def test_it_begins_at_its_start_wherever_the_file_was(file: io.FileIO) -> None:
    """The file's own position does not matter, neither before nor between reads."""
    file.seek(777)
    window = Window(file, 1000)

    first = window.read(10)
    file.seek(500)

    assert first + window.read(10) == CONTENT[:20]


def test_it_rewinds_for_another_try(file: io.FileIO) -> None:
    """A retry sends the same bytes again."""
    window = Window(file, 1000)
    first = window.read()

    assert window.read() == b""
    assert window.seek(0) == 0
    assert window.read() == first


def test_positions_are_the_windows_own(file: io.FileIO) -> None:
    """From its start, from where it is, and from its end, which is not the file's."""
    window = Window(file, 1000)

    assert (window.seek(0, os.SEEK_END), window.tell(), window.read()) == (1000, 1000, b"")
    assert (window.seek(-10, os.SEEK_END), window.read()) == (990, CONTENT[990:1000])
    assert (window.seek(100), window.seek(5, os.SEEK_CUR), window.tell()) == (100, 105, 105)
    assert (window.seek(5000), window.read(1)) == (5000, b"")


def test_it_has_no_descriptor(file: io.FileIO) -> None:
    """With one, the HTTP library would take the length of the whole file."""
    with pytest.raises(io.UnsupportedOperation):
        Window(file, 1000).fileno()


def test_the_http_library_announces_the_windows_length(file: io.FileIO) -> None:
    """And its body is as long as announced, with exactly these bytes in it."""
    window = cast("IO[bytes]", Window(file, 1000))
    request = httpx.Request("POST", "http://nobody", files={"document": ("a", window)})
    body = request.read()

    assert len(body) == int(request.headers["Content-Length"])
    assert CONTENT[:1000] in body
    assert CONTENT[:1001] not in body


def test_closing_it_leaves_the_file_open(file: io.FileIO) -> None:
    """The file belongs to whoever opened it."""
    Window(file, 1000).close()

    assert not file.closed


def test_what_is_as_it_was_written_is_given_whole(file: io.FileIO) -> None:
    """As often as it is sent."""
    window = CheckedWindow(file, len(CONTENT), SHA256)
    for _ in range(2):
        window.seek(0, os.SEEK_END)  # as the HTTP library does for the length
        window.seek(0)

        assert b"".join(iter(lambda: window.read(65_536), b"")) == CONTENT


@pytest.mark.parametrize("at", [0, 100_000, len(CONTENT) - 1])
def test_of_an_altered_file_the_last_piece_is_kept(file: io.FileIO, tmp_path: Path, at: int) -> None:
    """Wherever it was altered."""
    altered = bytearray(CONTENT)
    altered[at] ^= 1
    (tmp_path / "part").write_bytes(altered)
    window = CheckedWindow(file, len(CONTENT), SHA256)

    for _ in range(3):
        window.read(65_536)
    with pytest.raises(Altered):
        window.read(65_536)


def test_a_file_that_has_shrunk_is_altered(file: io.FileIO, tmp_path: Path) -> None:
    """It ends before the length that was announced."""
    window = CheckedWindow(file, len(CONTENT), SHA256)
    os.truncate(tmp_path / "part", 65_536)

    window.read(65_536)
    with pytest.raises(Altered):
        window.read(65_536)
