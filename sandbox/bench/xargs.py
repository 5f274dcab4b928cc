"""What the chain is measured against: `xargs -P5 pg_dump` of the same schemas into files on the same disk."""

from __future__ import annotations

import resource
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.bench.plant import BenchFailed
from sandbox.bench.processor import family_seconds
from sandbox.bench.queue_figures import Round
from sandbox.bench.rivals import pg_dump_arguments, pg_dump_environment
from sandbox.process import spawn
from shared.contracts.job import schema_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox.bench.chain import Servers
    from services.exporter.pg_dump import Client

AT_ONCE = 5  #: as many as an exporter has slots


@dataclass(frozen=True, slots=True)
class XargsPgDump:
    servers: Servers
    client: Client
    slugs: Sequence[str]

    async def __call__(self) -> Round:
        """Dump them all. Raises BenchFailed unless each dump ended well."""
        folder = self.servers.stack.directory / "xargs"
        folder.mkdir()
        try:
            return self._timed(folder)
        finally:
            shutil.rmtree(folder)

    def _timed(self, folder: Path) -> Round:
        server = self.servers.postgres.pid
        of_server, of_children = family_seconds(server), _children_seconds()
        started = time.monotonic()
        self._run(folder)
        seconds = time.monotonic() - started
        return Round(
            seconds,
            {
                "pg_dump": _children_seconds() - of_children,
                "PostgreSQL": family_seconds(server) - of_server,
            },
        )

    def _run(self, folder: Path) -> None:
        names = folder / "schemas"
        names.write_text("".join(f"{schema_of(slug)}\n" for slug in self.slugs), encoding="utf-8")
        url = self.servers.stack.url_as("dump")
        xargs = spawn(
            ["xargs", f"--arg-file={names}", f"-P{AT_ONCE}", "-I{}", *self._pg_dump(url, folder)],
            log=self.servers.stack.directory / "xargs.log",
            environment=pg_dump_environment(url),
        )
        if xargs.process.wait() != 0:
            raise BenchFailed(f"xargs pg_dump failed:\n{xargs.log.read_text(errors='replace')}")

    def _pg_dump(self, url: str, folder: Path) -> list[str]:
        return [*pg_dump_arguments(self.client, url, "{}"), f"--file={folder}/{{}}.sql"]


def _children_seconds() -> float:
    """Processor time of this process's children that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
