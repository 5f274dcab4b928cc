"""How much a dump may take, and how much it must leave: checked before it and while it is written.

`services.exporter.export` asks before the dump, the stages while they read and write, and for a tar archive
`watch` looks at what pg_dump has in /tmp. Too large a dump fails for good; room may come back.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.exporter.settings import MIB, ExporterSettings
from services.exporter.tar_counter import TarCounter
from services.exporter.unnamed_files import unnamed_bytes
from shared.contracts.errors import PermanentError, TemporaryError
from shared.contracts.job import Format

#: pg_dump's tar writer puts each table here first, whatever TMPDIR says.
TMP = Path("/tmp")  # noqa: S108 - nothing of ours is written there

LOOK_SECONDS = 0.2

#: How much is written between two looks at the spool: on a network each look is a round trip.
_STEP_BYTES = MIB


def free_bytes(folder: Path) -> int:
    """What this user may still write to the folder's volume."""
    volume = os.statvfs(folder)
    return volume.f_bavail * volume.f_frsize


@dataclass(slots=True)
class Room:
    """Of one dump. Raises PermanentError over a cap, TemporaryError under a floor."""

    settings: ExporterSettings
    spool: Path
    free: Callable[[Path], int] = free_bytes
    _looked_at: int = field(default=-_STEP_BYTES)
    """The stored size at the last look at the spool."""

    def require_begin(self, form: Format) -> None:
        """Raises before anything is locked or written."""
        self._require_spool()
        if form is Format.TAR:
            self._require_tmp()

    def require_raw(self, size_bytes: int) -> None:
        """Of the plain stream, and of what waits for it in /tmp."""
        allowed = self.settings.max_raw_bytes
        if size_bytes > allowed:
            raise PermanentError(
                "raw_limit",
                f"The dump reached {size_bytes} bytes before compression; "
                f"PGFERRY_MAX_RAW_BYTES allows {allowed}.",
            )

    def require_stored(self, size_bytes: int) -> None:
        """Asked before the stored stream grows to this size."""
        allowed = self.settings.max_stored_bytes
        if size_bytes > allowed:
            raise PermanentError(
                "stored_limit",
                f"The dump reached {size_bytes} bytes in the spool; "
                f"PGFERRY_MAX_STORED_BYTES allows {allowed}.",
            )
        if size_bytes >= self._looked_at + _STEP_BYTES:
            self._looked_at = size_bytes
            self._require_spool()

    async def watch(self, group: int, counter: TarCounter) -> None:
        """Look again and again at the files of pg_dump's process group; returns never."""
        while True:
            await asyncio.to_thread(self._look, group, counter)
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self, group: int, counter: TarCounter) -> None:
        # In this order: a table that has streamed by meanwhile must not count twice.
        settled = counter.settled_bytes
        self.require_raw(settled + unnamed_bytes(group))
        self._require_tmp()

    def _require_spool(self) -> None:
        floor = self.settings.spool_floor_bytes
        if (free := self.free(self.spool)) < floor:
            raise TemporaryError(
                "spool_full",
                f"The spool's volume has {free} bytes left and PGFERRY_SPOOL_FLOOR_BYTES keeps {floor}: "
                "make room there.",
            )

    def _require_tmp(self) -> None:
        floor = self.settings.tmp_floor_bytes
        if (free := self.free(TMP)) < floor:
            raise TemporaryError(
                "tmp_full",
                f"{TMP} has {free} bytes left and PGFERRY_TMP_FLOOR_BYTES keeps {floor}: "
                "make room there, or ask for format sql.",
            )


async def watched(work: Coroutine[Any, Any, None], watch: Coroutine[Any, Any, None]) -> None:
    """Do the work; when `watch` raises first, the work is cancelled and that error is raised."""
    tasks = [asyncio.create_task(work), asyncio.create_task(watch)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
