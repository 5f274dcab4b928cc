"""Restores a fetched backup with standard tools only, as the documents tell an operator to.

The demo and the tests run exactly these commands; nothing of pgferry takes part.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

#: Only of the header, where nothing of the tenant's can stand yet.
WITHOUT_NEWER_SETTINGS = "sed '1,25{/^SET transaction_timeout = 0;$/d}'"


class RestoreFailed(RuntimeError):
    """A command ended with an error; the text holds what it said."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A folder as `pgferry backups fetch` leaves it, and how its stream is undone."""

    folder: Path
    identity_file: Path | None  #: None for a backup that is not encrypted
    decompress: str | None = "zstd -d"
    is_archive: bool = False  #: of pg_dump's tar format

    @property
    def stream(self) -> str:
        """The shell pipeline that yields the dump as SQL."""
        steps = ["cat part-*"]
        if self.identity_file:
            steps.append(f"age -d -i {self.identity_file}")
        if self.decompress:
            steps.append(self.decompress)
        if self.is_archive:
            steps.append("(pg_restore --no-owner --no-tablespaces -f - && cat >/dev/null)")
        return " | ".join(steps)

    def check(self) -> None:
        self._run("sha256sum -c --quiet SHA256SUMS")

    def restore_into(self, url: str, *, older_server: bool = False) -> None:
        """Into an empty database: all of it or nothing. An `older_server` than the dump's client."""
        stream = f"{self.stream} | {WITHOUT_NEWER_SETTINGS}" if older_server else self.stream
        self._run(
            f'{stream} | psql -X -q -v ON_ERROR_STOP=1 --single-transaction "$TARGET_URL" >/dev/null',
            url,
        )

    def contains(self, text: str) -> bool:
        """Whether the SQL holds this text anywhere."""
        return self._run(f"{self.stream} | grep -c -F -- '{text}' || true").strip() != "0"

    def plain(self) -> str:
        return self._run(self.stream)

    def _run(self, command: str, target_url: str = "") -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TARGET_URL": target_url, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RestoreFailed(f"{command}\n{done.stderr}")
        return done.stdout
