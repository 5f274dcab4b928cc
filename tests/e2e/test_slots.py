"""How many jobs run at once, and which: in one exporter, and in two together."""

import os
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from sandbox.postgres import newest_bin_directory
from sandbox.stack import Stack
from sandbox.tenants import create_small_tenant
from shared.contracts.job import Format, Priority
from shared.storage.database import Database
from tests.e2e import steps

PROJECTS = [f"project-{number}" for number in range(8)]

#: Waits at the gate while there is one, and notes when it begins and ends.
_HELD_PG_DUMP = """#!/bin/bash
[ "$1" = --version ] && exec {real} --version
echo begin >> {notes}
[ -p {gate} ] && read -r < {gate}
{real} "$@"
code=$?
echo end >> {notes}
exit $code
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.touch()
    return path


@pytest.fixture
def pg_dump(tmp_path: Path, gate: Path, notes: Path) -> dict[str, object]:
    """The setting for a pg_dump that waits at the gate."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "pg_dump"
    real = newest_bin_directory() / "pg_dump"
    program.write_text(_HELD_PG_DUMP.format(real=real, notes=notes, gate=gate))
    program.chmod(0o700)
    return {"PG_BIN_DIRS": folder, "PGFERRY_POLL_SECONDS": 0.5}


@pytest.fixture
async def projects(stack: Stack, connection: asyncpg.Connection) -> list[str]:
    for project in PROJECTS:
        await create_small_tenant(connection, slug=project, rows=1)
        await stack.add_project(connection, project, slug=project)
    return PROJECTS


def open_for_all(gate: Path) -> None:
    """Whoever waits goes on, and nobody waits any more."""
    writer = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    gate.unlink()
    os.close(writer)


def notes_of(notes: Path) -> list[str]:
    return notes.read_text().split()


def most_at_once(notes: Path) -> int:
    running, most = 0, 0
    for line in notes_of(notes):
        running += 1 if line == "begin" else -1
        most = max(most, running)
    return most


async def stages(connection: asyncpg.Connection) -> dict[str, int]:
    rows = await connection.fetch("SELECT stage, count(*) AS jobs FROM control_plane.jobs GROUP BY stage")
    return {row["stage"]: row["jobs"] for row in rows}


async def begun(connection: asyncpg.Connection) -> set[UUID]:
    rows = await connection.fetch("SELECT id FROM control_plane.jobs WHERE started_at IS NOT NULL")
    return {row["id"] for row in rows}


async def test_five_at_once_in_a_process_and_six_on_the_server(
    stack: Stack,
    connection: asyncpg.Connection,
    control_plane: Database,
    projects: list[str],
    pg_dump: dict[str, object],
    gate: Path,
    notes: Path,
) -> None:
    """The sixth waits for a second process, the seventh for the server; the urgent one and those of other
    projects come before a project's second.
    """
    jobs = [await steps.ask(control_plane, project) for project in projects[:6]]
    second = await steps.ask(control_plane, projects[0], format=Format.TAR)
    urgent = await steps.ask(control_plane, projects[7], priority=Priority.HIGH)

    async def writing(count: int) -> bool:
        return notes_of(notes).count("begin") == count

    stack.start("exporter", **pg_dump, PGFERRY_DUMPS_PER_SERVER=6)
    await steps.until(lambda: writing(5), "five dumps run")
    of_one = await begun(connection)
    stack.start("exporter", **pg_dump, PGFERRY_DUMPS_PER_SERVER=6).wait_ready()
    await steps.until(lambda: writing(6), "the second process has one")
    of_two, at_the_cap = await begun(connection), await stages(connection)
    open_for_all(gate)

    async def all_but_the_second() -> bool:
        return (await stages(connection)).get("dumped") == 7

    await steps.until(all_but_the_second, "all are dumped")
    assert of_one == {urgent, *jobs[:4]}
    assert of_two == {urgent, *jobs[:5]}
    assert at_the_cap == {"dumping": 6, "queued": 2}
    assert most_at_once(notes) == 6
    row = await steps.job_row(connection, second)
    assert (row["status"], row["fence"]) == ("pending", 0)  # its project's first job is not uploaded yet
    attempts = await connection.fetch(
        "SELECT DISTINCT dump_attempts FROM control_plane.jobs WHERE id <> $1", second
    )
    assert [tuple(row) for row in attempts] == [(1,)]
