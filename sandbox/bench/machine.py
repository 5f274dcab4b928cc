"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from services.exporter import stages

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from services.exporter.pg_dump import Client


async def machine_facts(connection: asyncpg.Connection, versions: Mapping[str, str]) -> dict[str, str]:
    """The machine, what everything ran on, and `versions` of what else took part."""
    server_version: str = await connection.fetchval("SHOW server_version")
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "PostgreSQL": server_version.partition(" ")[0],
        **versions,
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def dump_versions(client: Client) -> dict[str, str]:
    return {
        "pg_dump": client.version,
        "zstd": f"{_version('zstd', '--version')} beside pg_dump, level {stages.ZSTD_LEVEL} in pgferry",
    }


def _processor() -> str:
    found = re.search(
        r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="ascii"), re.MULTILINE
    )
    return found[1] if found else platform.machine()


def _version(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"v?(\d+\.\d+(\.\d+)?)", answer)
    return found[1] if found else answer.strip()
