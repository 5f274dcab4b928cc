"""What a process group has in files without a name, which no folder shows.

`services.exporter.room` asks for pg_dump's.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def unnamed_bytes(group: int) -> int:
    """Their sizes together; a file that several processes have open counts once."""
    files = (found for pid in _processes(group) for found in _open_files(pid))
    return sum(
        {
            (file.st_dev, file.st_ino): file.st_size
            for file in files
            if stat.S_ISREG(file.st_mode) and file.st_nlink == 0
        }.values()
    )


def _processes(group: int) -> Iterator[int]:
    for entry in os.scandir("/proc"):
        with suppress(ValueError, ProcessLookupError):
            if os.getpgid(int(entry.name)) == group:
                yield int(entry.name)


def _open_files(pid: int) -> Iterator[os.stat_result]:
    """Of a process that may end, or close them, at any moment."""
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield descriptor.stat()
