"""What pgferry is measured against: pg_dump with the exporter's own options, alone or with a filter.

Its output goes nowhere, which is kinder to it than the disk that pgferry writes to.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from sandbox.bench.plant import BenchFailed
from services.exporter.pg_dump import Client, DumpCommand, without_password
from shared.contracts.job import Format, schema_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox.bench.plant import Plant

#: The exporter's snapshot is its own, the format is the rival's.
_REPLACED = ("--snapshot=", "--format=")


@dataclass(frozen=True, slots=True)
class PgDump:
    """pg_dump of one tenant, and what its output goes through."""

    plant: Plant
    slug: str
    form: str = "plain"
    through: Sequence[str] = ()
    crowded: bool = False

    async def __call__(self) -> float:
        """Seconds until the last process has ended. Raises BenchFailed unless all ended well."""
        started = time.monotonic()
        self._run(subprocess.DEVNULL)
        return time.monotonic() - started

    async def store(self, path: Path) -> None:
        with path.open("wb") as file:
            self._run(file)

    def _run(self, output: IO[bytes] | int) -> None:
        _run([self._arguments(), *([self.through] if self.through else [])], self._environment(), output)

    def _arguments(self) -> list[str]:
        url = self.plant.tenants_url(crowded=self.crowded)
        return pg_dump_arguments(self.plant.client, url, schema_of(self.slug), form=self.form)

    def _environment(self) -> dict[str, str]:
        return pg_dump_environment(self.plant.tenants_url())


def pg_dump_arguments(client: Client, url: str, schema: str, *, form: str = "plain") -> list[str]:
    command = DumpCommand(
        client=client,
        format=Format.SQL,
        url=url,
        schema=schema,
        snapshot="",
        lock_seconds=30,
        application_name="bench",
    )
    kept = [argument for argument in command.arguments() if not argument.startswith(_REPLACED)]
    return [*kept, f"--format={form}"]


def pg_dump_environment(url: str) -> dict[str, str]:
    _, password = without_password(url)
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGPASSWORD": password or ""}


def _run(pipeline: Sequence[Sequence[str]], environment: dict[str, str], output: IO[bytes] | int) -> None:
    """Joined by pipes as a shell does it."""
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as opened:
        for number, arguments in enumerate(pipeline, start=1):
            source = processes[-1].stdout if processes else None
            process = subprocess.Popen(
                arguments,
                stdin=source or subprocess.DEVNULL,
                stdout=output if number == len(pipeline) else subprocess.PIPE,
                env=environment,
            )
            processes.append(opened.enter_context(process))
            if source is not None:
                source.close()
    for process in processes:
        if process.returncode != 0:
            raise BenchFailed(f"{process.args!r} ended with {process.returncode}")
