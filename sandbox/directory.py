"""Directories that are removed when their owner closes them, and also when it is killed.

Called by the private servers, whose files must not stay behind a test session or a demo that was killed.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Final

# Standard input ends when the owner closes it or is gone. Servers of the owner may write for a moment longer.
_SWEEP: Final = """
cat
tries=100
until rm -rf -- "$1" || [ "$tries" = 0 ]; do tries=$((tries - 1)); sleep 0.1; done
"""
_SWEEP_SECONDS: Final = 30


class ScratchDirectory:
    """A new directory (0700), by default under the system's temporary directory, until `close`."""

    def __init__(self, path: Path | None = None, *, prefix: str = "pgferry-") -> None:
        if path is None:
            path = Path(tempfile.mkdtemp(prefix=prefix))
        else:
            path.mkdir(mode=0o700)
        self.path = path
        self._sweeper = subprocess.Popen(
            ["/bin/sh", "-c", _SWEEP, "sweeper", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def close(self) -> None:
        """Remove the directory with all that is in it; closing twice is closing once."""
        if self._sweeper.stdin is not None:
            self._sweeper.stdin.close()
        self._sweeper.wait(_SWEEP_SECONDS)
