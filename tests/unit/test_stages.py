"""The stream's way from pg_dump to the spool: what comes out, and how it ends when a stage fails.

A small program stands for pg_dump; threads, pipes and files are real.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import os
import random
import resource
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pyrage
import pytest

from sandbox.process import wait_until
from services.exporter.copy_counter import UnknownStream
from services.exporter.pipeline import open_pipe, run_stages
from services.exporter.stages import COMPRESS, Cut, Encrypt, ReadAndCount, Stage
from shared.contracts.job import Compression
from shared.contracts.manifest import part_limit
from shared.runtime.worker import Progress
from shared.storage.spool import Prefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

SMALLEST_PART = 64 * 1024
ENDLESS = ["sh", "-c", """printf '%s\\n' 'COPY "t"."a" ("b") FROM stdin;'; exec base64 /dev/urandom"""]
DECOMPRESS = {Compression.ZSTD: "| zstd -d", Compression.GZIP: "| gzip -d", Compression.NONE: ""}
IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
END = b"\n\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n"


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    prefix = Prefix(tmp_path / "spool" / "1")
    prefix.create()
    return prefix


def open_descriptors() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """Whatever happened, every thread has ended and every pipe is closed."""
    descriptors = len(open_descriptors())
    yield
    wait_until(
        lambda: "stage" not in {thread.name for thread in threading.enumerate()}, seconds=5, what="ended"
    )
    assert len(open_descriptors()) == descriptors


@dataclass(slots=True)
class Pipeline:
    """Stages as the exporter joins them, fed by a program."""

    prefix: Prefix
    compression: Compression = Compression.ZSTD
    recipients: Sequence[str] = (RECIPIENT,)
    part_size_bytes: int = SMALLEST_PART
    plain: ReadAndCount = field(default_factory=lambda: ReadAndCount(Progress()))
    cut: Cut = field(init=False)
    exit_code: int | None = None

    def __post_init__(self) -> None:
        self.cut = Cut(self.prefix, self.part_size_bytes, Progress())

    def stages(self) -> list[Stage]:
        compress = COMPRESS[self.compression]
        encrypt = Encrypt(self.recipients) if self.recipients else None
        return [stage for stage in (self.plain, compress, encrypt, self.cut) if stage is not None]

    async def run(self, program: Sequence[str], stages: Sequence[Stage] | None = None) -> None:
        source, output = open_pipe()
        with output:
            process = subprocess.Popen(program, stdout=output)  # noqa: ASYNC220 - returns at once
        try:
            await run_stages(stages or self.stages(), source, stop=process.kill)
        finally:
            self.exit_code = await asyncio.to_thread(process.wait, 10)


def dump_of(size: int, tmp_path: Path) -> tuple[Path, bytes]:
    """A dump with about so many bytes of data that hardly compress."""
    noise = random.Random(size).randbytes(size * 3 // 4)  # noqa: S311 - the same each time
    data = base64.encodebytes(noise).rstrip(b"\n")
    text = b'COPY "t"."a" ("b") FROM stdin;\n' + data + END
    path = tmp_path / "dump.sql"
    path.write_bytes(text)
    return path, text


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("recipients", [(), (RECIPIENT,)], ids=["clear", "age"])
async def test_standard_tools_get_the_plain_stream_back(
    tmp_path: Path, prefix: Prefix, compression: Compression, recipients: Sequence[str]
) -> None:
    """cat, age and zstd or gzip; hashes and sizes of plain, stored and parts are those of the bytes."""
    path, text = dump_of(300_000, tmp_path)
    key = tmp_path / "key"
    key.write_text(str(IDENTITY), encoding="ascii")
    pipeline = Pipeline(prefix, compression, recipients)

    await pipeline.run(["cat", str(path)])

    age = f"| age -d -i {key}" if recipients else ""
    command = f"cat {prefix.path}/part-* {age} {DECOMPRESS[compression]}"
    restored = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout  # noqa: ASYNC221
    stored = b"".join(part.read_bytes() for part in sorted(prefix.path.iterdir()))
    assert restored == text
    assert (pipeline.plain.plain.size_bytes, pipeline.plain.plain.sha256) == (len(text), sha256(text))
    assert (pipeline.cut.stored.size_bytes, pipeline.cut.stored.sha256) == (len(stored), sha256(stored))
    for part in pipeline.cut.parts:
        content = prefix.loaded_part(part).read_bytes()
        assert (part.size_bytes, part.sha256) == (len(content), sha256(content))
    assert pipeline.plain.counter.rows == {("t", "a"): text.count(b"\n", text.index(b"\n") + 1) - 6}
    assert pipeline.plain.counter.complete
    assert pipeline.exit_code == 0


async def test_parts_are_as_large_as_they_may_be(tmp_path: Path, prefix: Prefix) -> None:
    """Each fills its own limit, only the last is smaller; none has its staging name any more."""
    path, text = dump_of(66 * SMALLEST_PART, tmp_path)
    pipeline = Pipeline(prefix, Compression.NONE, ())

    await pipeline.run(["cat", str(path)])

    sizes = [part.size_bytes for part in pipeline.cut.parts]
    limits = [part_limit(index, SMALLEST_PART) for index in range(len(sizes))]
    assert len(sizes) > 65
    assert sizes[:-1] == limits[:-1]
    assert 0 < sizes[-1] <= limits[-1]
    assert sum(sizes) == len(text)
    assert sorted(path.name for path in prefix.path.iterdir()) == [f"part-{n:05d}" for n in range(len(sizes))]
    assert {path.stat().st_mode & 0o777 for path in prefix.path.iterdir()} == {0o600}
    assert prefix.path.stat().st_mode & 0o777 == 0o700


async def test_a_stream_that_ends_with_a_part_begins_no_empty_one(tmp_path: Path, prefix: Prefix) -> None:
    """An empty part could not be sent."""
    path = tmp_path / "dump.sql"
    path.write_bytes(b"x" * (part_limit(0, SMALLEST_PART) + part_limit(1, SMALLEST_PART)))
    pipeline = Pipeline(prefix, Compression.NONE, ())

    await pipeline.run(["cat", str(path)])

    assert len(pipeline.cut.parts) == 2
    assert len(list(prefix.path.iterdir())) == 2


def test_neighbouring_parts_differ_in_size() -> None:
    """4 KiB from one to the next, over 64 parts, below 19 MiB: none exceeds what a bot gets back."""
    limits = [part_limit(index, 19 * 1024 * 1024) for index in range(130)]

    assert limits[0] == limits[64] == limits[128] == 19 * 1024 * 1024
    assert {before - after for before, after in pairwise(limits[:64])} == {4096}
    assert min(limits) == 19 * 1024 * 1024 - 63 * 4096
    assert min(part_limit(index, SMALLEST_PART) for index in range(64)) > 0


@dataclass(frozen=True, slots=True)
class FullDisk(Prefix):
    """A prefix on a disk without room."""

    @contextmanager
    def writing(self, _name: str) -> Iterator[FileIO]:
        with FileIO("/dev/full", "wb") as file:
            yield file


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("recipients", [(), (RECIPIENT,)], ids=["clear", "age"])
async def test_a_full_disk_is_what_is_told(
    prefix: Prefix, compression: Compression, recipients: Sequence[str]
) -> None:
    """Not the broken pipes that it causes upstream, whichever stage met them; the program is ended."""
    pipeline = Pipeline(FullDisk(prefix.path), compression, recipients)

    with pytest.raises(OSError, match="No space left") as caught:
        await pipeline.run(ENDLESS)

    assert caught.value.errno == errno.ENOSPC
    assert pipeline.exit_code != 0


async def test_a_folder_that_is_gone_is_what_is_told(prefix: Prefix) -> None:
    """Somebody removed it; the dump must not go on into nowhere."""
    prefix.remove()
    pipeline = Pipeline(prefix)

    with pytest.raises(FileNotFoundError):
        await pipeline.run(ENDLESS)

    assert pipeline.exit_code != 0


def test_a_description_that_is_written_only_in_part_is_not_there(prefix: Prefix) -> None:
    """On a disk that is nearly full a write takes what fits, and says so by a number only."""
    path = prefix.path / "manifest.json"
    with largest_file(100), pytest.raises(OSError, match="File too large"):
        prefix.write_manifest(b"x" * 5000)

    assert list(prefix.path.iterdir()) == []
    prefix.write_manifest(b"x" * 5000)
    assert path.stat().st_size == 5000


def test_what_a_killed_writer_left_is_in_nobodys_way(prefix: Prefix) -> None:
    """The next process writes the same name again."""
    interrupted = prefix.writing("manifest.json")
    file = interrupted.__enter__()
    file.write(b"half")

    prefix.write_manifest(b"whole")

    assert prefix.manifest_path.read_bytes() == b"whole"
    with contextlib.suppress(StageBroke):
        interrupted.__exit__(StageBroke, StageBroke(), None)
    assert prefix.manifest_path.read_bytes() == b"whole"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class StageBroke(Exception):
    pass


def broken(source: FileIO, _sink: FileIO) -> None:
    source.read(1000)
    raise StageBroke


@pytest.mark.parametrize("position", range(4))
async def test_the_stage_that_failed_of_itself_is_what_is_told(prefix: Prefix, position: int) -> None:
    """Wherever it stands, its neighbours end with it."""
    pipeline = Pipeline(prefix)
    stages = pipeline.stages()
    stages[position] = broken

    with pytest.raises(StageBroke):
        await pipeline.run(ENDLESS, stages)

    assert pipeline.exit_code != 0


async def test_what_the_counter_refuses_ends_the_dump(prefix: Prefix) -> None:
    """The first stage fails while the program still writes."""
    block = 'COPY "t"."a" ("b") FROM stdin;\n1\n\\.\n'

    with pytest.raises(UnknownStream):
        await Pipeline(prefix).run(["sh", "-c", f"printf %s '{block * 2}'; exec sleep 60"])


async def test_a_cancelled_dump_ends_program_and_threads(prefix: Prefix) -> None:
    """Before the cancellation is answered."""
    pipeline = Pipeline(prefix)
    running = asyncio.create_task(pipeline.run(ENDLESS))
    await asyncio.to_thread(
        wait_until, lambda: bool(pipeline.cut.parts), seconds=10, what="a part is written"
    )

    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running

    assert running.cancelled()
    assert pipeline.exit_code != 0


async def test_too_few_descriptors_do_not_block_the_process(prefix: Prefix) -> None:
    """No thread may wait for a pipe that was never joined."""
    pipeline = Pipeline(prefix)

    def no_pipe_for(_source: FileIO, _sink: FileIO) -> None:
        raise AssertionError("no stage may begin")

    with descriptors_left(6), pytest.raises(OSError, match="Too many open files"):
        await pipeline.run(ENDLESS, [no_pipe_for, no_pipe_for, no_pipe_for])


async def test_a_thread_that_cannot_be_started_ends_the_dump(prefix: Prefix) -> None:
    """As a stage that fails does: the program and the threads that run end, and the process goes on."""
    pipeline = Pipeline(prefix)

    class Exhausting(list[Stage]):
        """While it hands out the second stage no thread can be started."""

        def __iter__(self) -> Iterator[Stage]:
            yield self[0]
            before = threading.stack_size(1 << 47)
            yield self[1]
            threading.stack_size(before)

    with pytest.raises(RuntimeError, match="can't start new thread"):
        await pipeline.run(ENDLESS, Exhausting([pipeline.plain, pipeline.cut]))

    assert pipeline.exit_code != 0


async def test_a_stage_that_never_ends_is_left_behind(
    prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a disk that does not answer: program and caller do not wait with it."""
    monkeypatch.setattr("services.exporter.pipeline.FROZEN_SECONDS", 0.2)
    pipeline = Pipeline(prefix)
    frozen, thaws = threading.Event(), threading.Event()

    def freezes(source: FileIO, _sink: FileIO) -> None:
        source.read(1)
        frozen.set()
        thaws.wait()

    running = asyncio.create_task(pipeline.run(ENDLESS, [freezes]))
    await asyncio.to_thread(frozen.wait, 10)
    running.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(running, return_exceptions=True)
    thaws.set()

    assert running.cancelled()
    assert pipeline.exit_code != 0


@contextmanager
def descriptors_left(number: int) -> Iterator[None]:
    """Use up this process's file descriptors except so many."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(open_descriptors())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for descriptor in taken[:number]:
            os.close(descriptor)
        del taken[:number]
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def ended_with(tail: bytes) -> ReadAndCount:
    """The first stage after a stream with this end."""
    stage = ReadAndCount(Progress())
    with FileIO("/dev/null", "wb") as sink:
        read_end, write_end = open_pipe()
        with write_end:
            write_end.write(b'COPY "t"."a" ("b") FROM stdin;\n1\n' + tail)
        with read_end:
            stage(read_end, sink)
    return stage


COMPLETION = b"--\n-- PostgreSQL database dump complete\n--\n\n"


@pytest.mark.parametrize(
    "tail",
    [
        b"\\.\n" + COMPLETION,
        b"\\.\n\n\n" + COMPLETION + b"\\unrestrict aBc0\n\n",
        b"\\.\nCOMMENT ON TABLE t IS '\n" + COMPLETION + b"';\n\n" + COMPLETION,
    ],
)
def test_a_stream_is_complete_with_its_completion_line(tail: bytes) -> None:
    r"""As pg_dump ends it, with and without `\unrestrict` behind."""
    assert ended_with(tail).counter.complete


@pytest.mark.parametrize(
    "tail",
    [
        b"\\.\n",
        b"",
        COMPLETION,
        b"2\n" + COMPLETION + b"3\n\\.\n",
        b"\\.\nCOMMENT ON TABLE t IS '\n" + COMPLETION,
        b"\\.\n" + COMPLETION + b"SELECT 1;\n",
        b"\\.\n-- PostgreSQL database dump complete and utterly\n",
        b"\\.\n--- PostgreSQL database dump complete\n",
        b"\\.\nx -- PostgreSQL database dump complete\n",
        b"\\.\n" + COMPLETION[:-7],
    ],
)
def test_the_completion_line_inside_something_else_completes_nothing(tail: bytes) -> None:
    """A row, a comment or a name may look like it; then the stream may still be cut behind."""
    assert not ended_with(tail).counter.complete
