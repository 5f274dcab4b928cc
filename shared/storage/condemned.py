"""What lies in the spool, what of it nobody needs any more, and its removal. The files' calls block.

`shared.storage.sweeper` looks, asks the database, and removes, in this order: what is condemned then stays
so, for fences only rise and an end is final.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from shared.contracts.job import Status
from shared.storage.spool import MARKER

#: Where a folder goes in one step before its files are removed one by one.
_AWAY = ".swept-"


@dataclass(frozen=True, slots=True)
class JobFolder:
    job_id: UUID
    fences: frozenset[int]
    changed_at: float  #: Unix seconds, of the folder and its prefixes


@dataclass(frozen=True, slots=True)
class SpoolSeen:
    """What lay in the spool, and whose spool it said to be."""

    marker: str | None
    jobs: tuple[JobFolder, ...]


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as the sweeper needs it; `past_keeping`: it failed longer ago than its dump is kept."""

    status: Status
    fence: int
    dump_fence: int | None
    past_keeping: bool


@dataclass(frozen=True, slots=True)
class Condemned:
    """To be removed: these prefixes; then the job's folder `if_empty`, or `whole`, whatever is in it."""

    job_id: UUID
    fences: frozenset[int] = frozenset()
    whole: bool = False
    if_empty: bool = False

    def __bool__(self) -> bool:
        return bool(self.fences) or self.whole or self.if_empty


def condemned(folder: JobFolder, job: JobState | None, *, keep_since: float) -> Condemned:
    """`keep_since` (Unix seconds): a job that nobody knows may be one of a database that was restored from
    an older state, so its folder is kept as long as a failed job's.

    The folder of a failed job is never removed as a whole: a requeue may have an exporter write in it now.
    """
    if job is None:
        return Condemned(folder.job_id, whole=folder.changed_at < keep_since)
    match job.status:
        case Status.COMPLETED | Status.CANCELLED:
            return Condemned(folder.job_id, whole=True)
        case Status.FAILED:
            kept = set() if job.past_keeping else {job.dump_fence}
            return Condemned(folder.job_id, folder.fences - kept, if_empty=True)
    older = frozenset(fence for fence in folder.fences if fence < job.fence)
    return Condemned(folder.job_id, older - {job.dump_fence})


def look(root: Path) -> SpoolSeen:
    return SpoolSeen(_marker(root), tuple(_folders(root)))


def _marker(root: Path) -> str | None:
    try:
        return (root / MARKER).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def _folders(root: Path) -> Iterator[JobFolder]:
    for path in list(root.iterdir()):
        with contextlib.suppress(ValueError, OSError):  # another's, or gone by now
            yield _folder(UUID(path.name), path)


def _folder(job_id: UUID, path: Path) -> JobFolder:
    prefixes = [prefix for prefix in path.iterdir() if prefix.name.isdigit()]
    changed_at = max(one.stat().st_mtime for one in (path, *prefixes))
    return JobFolder(job_id, frozenset(int(prefix.name) for prefix in prefixes), changed_at)


@dataclass(frozen=True, slots=True)
class Removed:
    prefixes: int
    folders: int


def remove(root: Path, condemned: Sequence[Condemned], *, keep_since: float) -> Removed:
    """Remove all, and what earlier removals left. Raises OSError at the end if something could not be."""
    prefixes = [root / str(one.job_id) / str(fence) for one in condemned for fence in one.fences]
    folders = [root / str(one.job_id) for one in condemned if one.whole]
    emptied = [root / str(one.job_id) for one in condemned if one.if_empty]
    removed = Removed(
        prefixes=sum([_moved_away(root, prefix) for prefix in prefixes]),
        folders=sum([_moved_away(root, folder) for folder in folders] + [*map(_removed_if_empty, emptied)]),
    )
    for left in [*root.glob(f"{_AWAY}*")]:
        shutil.rmtree(left, ignore_errors=True)
    _remove_old_markers(root, keep_since)
    if any(path.exists() for path in (*prefixes, *folders, *root.glob(f"{_AWAY}*"))):
        raise OSError("it has files that cannot be removed")
    return removed


def _moved_away(root: Path, path: Path) -> bool:
    """In one step: a writer that has slept finds no folder, rather than one that vanishes around it."""
    try:
        path.rename(root / f"{_AWAY}{uuid4().hex}")
    except OSError:
        return False
    return True


def _removed_if_empty(job: Path) -> bool:
    try:
        job.rmdir()
    except OSError:
        return False
    return True


def _remove_old_markers(root: Path, keep_since: float) -> None:
    """What a process that was killed while it marked the folder has left."""
    for path in root.glob(f"{MARKER}.*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < keep_since:
                path.unlink()
