"""The spool on `file://`: one folder that all exporters and uploaders share.

A dump is a prefix `<job>/<dump fence>/` of parts and, written last, `dump.json`. Files appear whole:
written under a staging name, flushed to the disk, renamed. The exporter writes from its pipeline's
threads, so these calls block; the uploader reads.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

from pydantic import ValidationError

from shared.contracts.errors import DumpLost, Unavailable
from shared.contracts.manifest import Dump, Part
from shared.runtime.aside import Aside
from shared.runtime.process import Fatal
from shared.runtime.spool_calls import answered
from shared.storage.database import Database

MARKER = ".pgferry-spool"
PROBE = ".pgferry-probe"
DUMP_FILE = "dump.json"
MANIFEST_FILE = "manifest.json"
STAGING_SUFFIX = ".staging"

_PIECE_BYTES = 256 * 1024

_MARK = """
    INSERT INTO control_plane.spool (marker) VALUES ($1)
    ON CONFLICT (only_row) DO UPDATE SET only_row = true
    RETURNING marker
"""


@dataclass(frozen=True, slots=True)
class Prefix:
    """One dump's folder, private to this user."""

    path: Path

    def create(self) -> None:
        """Make the job's folder and this one; a root that is gone, as after an unmount, is an error."""
        while True:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                return self.path.mkdir(mode=0o700)
            except FileNotFoundError:
                continue  # the job's folder was empty, and was swept in between

    @contextmanager
    def writing(self, name: str) -> Iterator[FileIO]:
        """A file that has its name only after it was written whole and has reached the disk.

        Each writing has a staging name of its own: one that a killed process left is in nobody's way.
        """
        staging = self.path / f"{name}.{uuid4().hex}{STAGING_SUFFIX}"
        descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with FileIO(descriptor, "wb") as file:
                yield file
                os.fsync(descriptor)
            staging.rename(self.path / name)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise

    def write_dump(self, dump: Dump) -> None:
        """The commit point of the dump: the folder's earlier renames are flushed before it."""
        self._flush()
        with self.writing(DUMP_FILE) as file:
            write_all(file, dump.model_dump_json(indent=1).encode())
        self._flush()

    def read_dump(self) -> Dump:
        """Raises DumpLost `spool_dump_missing`."""
        try:
            return Dump.model_validate_json((self.path / DUMP_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise DumpLost(
                "spool_dump_missing", "The dump is not in the spool, or its description is damaged."
            ) from error

    @property
    def manifest_path(self) -> Path:
        return self.path / MANIFEST_FILE

    def write_manifest(self, content: bytes) -> None:
        with self.writing(MANIFEST_FILE) as file:
            write_all(file, content)
        self._flush()

    def loaded_part(self, part: Part) -> Path:
        """The part's file, read once, so that whoever sends it soon does not wait for the disk; its bytes are
        checked as they leave. Raises DumpLost `spool_part_damaged` when it is missing or has another size.
        """
        path = self.path / part_name(part.index)
        try:
            size = _read_through(path)
        except OSError as error:
            raise _damaged(part, "is missing") from error
        if size != part.size_bytes:
            raise _damaged(part, "was altered")
        return path

    def remove(self) -> None:
        """Remove the prefix, and its job's folder when that is empty; what is gone already is fine."""
        shutil.rmtree(self.path, ignore_errors=True)
        try:
            self.path.parent.rmdir()
        except OSError:
            return

    def _flush(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Spool:
    root: Path

    def prefix(self, job_id: UUID, fence: int) -> Prefix:
        return Prefix(self.root / str(job_id) / str(fence))

    def remove_older(self, job_id: UUID, fence: int) -> None:
        """Remove what earlier fences of this job have left."""
        for path in self._fences(job_id):
            if int(path.name) < fence:
                Prefix(path).remove()

    def remove_job(self, job_id: UUID) -> None:
        shutil.rmtree(self.root / str(job_id), ignore_errors=True)

    def probe(self) -> None:
        """Raises Unavailable unless the folder is there, with its mark, and can be written to."""
        try:
            UUID((self.root / MARKER).read_text(encoding="ascii").strip())
            (self.root / PROBE).touch(mode=0o600)
            (self.root / PROBE).unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its mark is damaged"
            raise Unavailable("spool", f"The spool is not usable: {reason}.") from error

    def _fences(self, job_id: UUID) -> list[Path]:
        folder = self.root / str(job_id)
        return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


async def open_spool(url: str, database: Database, *, disk: Aside | None = None) -> Spool:
    """Check that this folder is the one that every service of this database uses.

    Whoever comes first marks the folder, and the database remembers that mark. Raises Fatal when the
    marks differ, and Unavailable when the database cannot be asked or the folder not be written to; with one
    `disk` for all tries, one try hangs at most.
    """
    root, marker = await answered(partial(_marked, url), disk=disk)
    async with database.session() as session:
        expected: UUID = await session.executor.fetchval(_MARK, marker)
    if marker != expected:
        raise Fatal(
            "SPOOL_URL is not the folder that the other services use: its marker differs from the "
            "database's. Mount the shared folder; if it was replaced for good, delete the row in "
            "control_plane.spool."
        )
    return Spool(root)


def _marked(url: str) -> tuple[Path, UUID]:
    root = _folder(url)
    return root, _marker_of(root)


def _marker_of(root: Path) -> UUID:
    """The folder's mark, made now if it has none. Raises Fatal or Unavailable."""
    try:
        _mark(root)
        return UUID((root / MARKER).read_text(encoding="ascii").strip())
    except OSError as error:
        raise Unavailable(
            "spool", f"SPOOL_URL: the folder cannot be written to ({error.strerror})."
        ) from error
    except ValueError as error:
        raise Fatal(
            f"SPOOL_URL: the folder's {MARKER} is damaged. If it is the right folder, write the marker of "
            "control_plane.spool into that file."
        ) from error


def _mark(root: Path) -> None:
    """Two who come at once agree on one mark."""
    staging = root / f"{MARKER}.{uuid4()}"
    staging.write_text(f"{uuid4()}\n", encoding="ascii")
    try:
        os.link(staging, root / MARKER)
    except FileExistsError:
        pass
    finally:
        staging.unlink()


def write_all(sink: FileIO, piece: memoryview | bytes) -> None:
    """An unbuffered write may take less than it was given, as on a disk that is nearly full."""
    view = memoryview(piece)
    while view:
        view = view[sink.write(view) or 0 :]


def part_name(index: int) -> str:
    """Zero-padded to five digits, so that names sort as the parts do: 99,999 parts are 1.8 TiB."""
    return f"part-{index:05d}"


def _folder(url: str) -> Path:
    parsed = urlsplit(url)
    if parsed.scheme != "file" or parsed.netloc not in {"", "localhost"}:
        raise Fatal("SPOOL_URL must be a file:// URL with an absolute path, like file:///var/spool/pgferry")
    root = Path(unquote(parsed.path))
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable("spool", f"SPOOL_URL: the folder cannot be made ({error.strerror}).") from error
    return root


def _read_through(path: Path) -> int:
    size, piece = 0, bytearray(_PIECE_BYTES)
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(piece):
            size += read
    return size


def _damaged(part: Part, how: str) -> DumpLost:
    return DumpLost("spool_part_damaged", f"Part {part.index} {how} in the spool.")
