"""What a dump may take and must leave: over a limit it ends at once, with a name and without a trace."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from sandbox.process import wait_until
from sandbox.stack import allow_dump
from services.exporter.export import Export
from services.exporter.room import TMP, free_bytes
from services.exporter.unnamed_files import unnamed_bytes
from shared.contracts.errors import Failure, PermanentError, TemporaryError
from shared.runtime.worker import Progress
from tests.integration.export_plant import Gate, Plant, failure_of, plant_on
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.contracts.job import Claim

MIB = 1024 * 1024
AT_ONCE_SECONDS = 10

#: Rows for ever, as fast as they can be read.
ENDLESS = 'printf \'%s\\n\' \'COPY "t"."a" ("b") FROM stdin;\'; exec base64 /dev/urandom'

HALF_READ = '$REAL "$@" | { head -c 1500000; read -r < "$GATE"; cat; }'

#: age's header has no fixed size.
CLEAR = {"PGFERRY_AGE_RECIPIENTS": "", "PGFERRY_ALLOW_UNENCRYPTED": "true"}

#: The archive's first bytes are out, a table waits in /tmp for a reader.
UNREAD = '$REAL "$@" | { read -r < "$GATE"; cat; }'


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    """With a tenant of about 300 kB; that nothing is left of an attempt is looked at afterwards."""
    async with plant_on(home, tmp_path, role_passwords) as plant:
        await plant.add_tenant(rows=2000)
        yield plant


async def ended_at_once(plant: Plant, claim: Claim, **environment: str) -> Failure:
    """How the attempt failed; by then its process group, its server sessions and its files are gone."""
    async with asyncio.timeout(AT_ONCE_SECONDS):
        failure = await plant.failure(claim, **environment)
        await eventually(plant.has_no_session)
    return failure


@pytest.mark.parametrize("compression", ["zstd", "none"])
async def test_a_dump_over_the_raw_cap_fails_for_good(plant: Plant, compression: str) -> None:
    """However small it is stored."""
    claim = await plant.claim(compression=compression)

    failure = await ended_at_once(plant, claim, PGFERRY_MAX_RAW_BYTES="100000", **plant.pg_dump(ENDLESS))

    assert isinstance(failure, PermanentError)
    assert failure.code == "raw_limit"
    reached = int(failure.sentence.split()[3])
    assert 100_000 < reached <= 100_000 + MIB
    assert failure.sentence == (
        f"The dump reached {reached} bytes before compression; PGFERRY_MAX_RAW_BYTES allows 100000."
    )


async def test_a_dump_over_the_stored_cap_fails_for_good(plant: Plant) -> None:
    """The spool never holds more than the cap."""
    claim = await plant.claim()

    failure = await ended_at_once(plant, claim, PGFERRY_MAX_STORED_BYTES="100000", **plant.pg_dump(ENDLESS))

    assert isinstance(failure, PermanentError)
    assert failure.code == "stored_limit"
    reached = int(failure.sentence.split()[3])
    assert 100_000 < reached <= 100_000 + MIB
    assert failure.sentence.endswith("bytes in the spool; PGFERRY_MAX_STORED_BYTES allows 100000.")


@pytest.mark.parametrize("form", ["sql", "tar"])
async def test_a_dump_may_be_as_large_as_the_caps(plant: Plant, form: str) -> None:
    """And not a byte larger; what an archive had in /tmp is not counted twice."""
    raw, stored = await sizes(plant, form)
    caps = {"PGFERRY_MAX_RAW_BYTES": raw, "PGFERRY_MAX_STORED_BYTES": stored}

    assert await sizes(plant, form, **as_text(caps)) == (raw, stored)
    for name, code in (("PGFERRY_MAX_RAW_BYTES", "raw_limit"), ("PGFERRY_MAX_STORED_BYTES", "stored_limit")):
        less = as_text(caps | {name: caps[name] - 1})
        failure = await plant.failure(await new_claim(plant, form), **CLEAR, **less)

        assert failure.code == code


async def sizes(plant: Plant, form: str, **environment: str) -> tuple[int, int]:
    """Of a dump, plain and stored, which is removed."""
    claim = await new_claim(plant, form)
    await plant.attempt(claim, **CLEAR, **environment)
    dump = plant.prefix(claim).read_dump()
    plant.prefix(claim).remove()
    return dump.plain.size_bytes, dump.stored.size_bytes


async def new_claim(plant: Plant, form: str) -> Claim:
    await plant.owner.execute("DELETE FROM control_plane.jobs")
    return await plant.claim(format=form, compression="none")


def as_text(settings: dict[str, int]) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items()}


async def test_what_waits_in_tmp_counts_towards_the_raw_cap(plant: Plant, gate: Gate) -> None:
    """pg_dump writes each table of an archive there first: its output says nothing meanwhile."""
    await add_large(plant)
    claim = await plant.claim("large", format="tar")

    failure = await ended_at_once(
        plant, claim, PGFERRY_MAX_RAW_BYTES="1500000", **plant.pg_dump(UNREAD, gate=gate)
    )

    assert isinstance(failure, PermanentError)
    assert failure.code == "raw_limit"
    assert int(failure.sentence.split()[3]) > 2_000_000


async def test_what_has_left_tmp_does_not_count_twice(plant: Plant, gate: Gate) -> None:
    """While a table streams by, its file is still there."""
    await add_large(plant)
    volume = Volume(plant.folder / "nothing", 10**12)
    export = on(volume, plant.export(PGFERRY_MAX_RAW_BYTES="2500000", **plant.pg_dump(HALF_READ, gate=gate)))
    claim = await plant.claim("large", format="tar")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(export(claim, Progress()))
        await gate.reached()
        await volume.looked_at_tmp_twice()
        gate.open()

    assert plant.prefix(claim).read_dump().rows == 2


async def add_large(plant: Plant) -> None:
    """A tenant with one table of 2 MB, which pg_dump writes first."""
    await plant.owner.execute("CREATE SCHEMA tenant_large")
    await plant.owner.execute(
        "CREATE TABLE tenant_large.t AS SELECT repeat('x', 1000000) AS x FROM generate_series(1, 2)"
    )
    await allow_dump(plant.owner, "tenant_large")
    await plant.add_project("large")


@dataclass(slots=True)
class Volume:
    """A volume of this capacity under a folder; /tmp has as much room as is said."""

    folder: Path
    capacity_bytes: int
    tmp_bytes: int = 10**12
    least_bytes: int = 10**12
    looks: list[Path] = field(default_factory=list)

    def free(self, folder: Path) -> int:
        self.looks.append(folder)
        if folder == TMP:
            return self.tmp_bytes
        used = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        self.least_bytes = min(self.least_bytes, self.capacity_bytes - used)
        return self.capacity_bytes - used

    async def looked_at_tmp_twice(self) -> None:
        """From now on: the first look may have begun before."""
        wanted = self.looks.count(TMP) + 2

        async def looked() -> bool:
            return self.looks.count(TMP) >= wanted

        await eventually(looked)


def on(volume: Volume, export: Export) -> Export:
    return Export(export.database, export.spool, export.clients, export.settings, volume.free)


async def test_the_spools_volume_is_never_filled(plant: Plant) -> None:
    """The dump ends where the floor begins, and its room is free again: it may come later."""
    volume = Volume(plant.spool.root, 8 * MIB)
    settings = {"PGFERRY_SPOOL_FLOOR_BYTES": str(4 * MIB), "PGFERRY_PART_SIZE_BYTES": "65536"}
    export = on(volume, plant.export(**settings, **plant.pg_dump(ENDLESS)))

    async with asyncio.timeout(AT_ONCE_SECONDS):
        failure = await failure_of(export(await plant.claim(compression="none"), Progress()))

    assert isinstance(failure, TemporaryError)
    assert failure.code == "spool_full"
    assert 2 * MIB < volume.least_bytes < 4 * MIB
    assert failure.sentence == (
        f"The spool's volume has {volume.least_bytes} bytes left and PGFERRY_SPOOL_FLOOR_BYTES keeps "
        f"{4 * MIB}: make room there."
    )
    assert plant.files() == []


@pytest.mark.parametrize(
    ("form", "volume_bytes", "tmp_bytes", "code"),
    [
        ("sql", 999, 10**12, "spool_full"),
        ("tar", 999, 10**12, "spool_full"),
        ("tar", 10**12, 999, "tmp_full"),
        ("sql", 10**12, 999, None),
        ("tar", 1000, 1000, None),
    ],
    ids=["sql, no spool", "tar, no spool", "tar, no tmp", "sql needs no tmp", "just enough"],
)
async def test_room_is_looked_at_before_anything_begins(
    plant: Plant, form: str, volume_bytes: int, tmp_bytes: int, code: str | None
) -> None:
    """Nobody's tables are locked for a dump that cannot end; it may come later."""
    volume = Volume(plant.folder / "nothing", volume_bytes, tmp_bytes)
    floors = {"PGFERRY_SPOOL_FLOOR_BYTES": "1000", "PGFERRY_TMP_FLOOR_BYTES": "1000"}
    nowhere = {"TENANT_DATABASE_URL": "postgresql://me@127.0.0.1:1/t"} if code else {}
    export = on(volume, plant.export(**floors, **nowhere))
    claim = await plant.claim(format=form)

    if code is None:
        await export(claim, Progress())
        return
    failure = await failure_of(export(claim, Progress()))

    assert isinstance(failure, TemporaryError)
    assert failure.code == code
    assert failure.sentence.partition(" bytes left")[0].endswith("has 999")


async def test_tmp_is_watched_while_an_archive_is_written(plant: Plant, gate: Gate) -> None:
    """pg_dump itself would write until nobody on the machine can."""
    volume = Volume(plant.folder / "nothing", 10**12)
    export = on(volume, plant.export(**plant.pg_dump(UNREAD, gate=gate)))
    attempt = asyncio.create_task(failure_of(export(await plant.claim(format="tar"), Progress())))
    await gate.reached()

    volume.tmp_bytes = 12345
    async with asyncio.timeout(AT_ONCE_SECONDS):
        failure = await attempt

    assert isinstance(failure, TemporaryError)
    assert (failure.code, failure.sentence) == (
        "tmp_full",
        f"{TMP} has 12345 bytes left and PGFERRY_TMP_FLOOR_BYTES keeps {256 * MIB}: "
        "make room there, or ask for format sql.",
    )
    assert plant.files() == []


async def test_a_full_tmp_is_told_from_a_full_server(plant: Plant) -> None:
    """When pg_dump meets the end of the volume before the watch does."""
    claim = await plant.claim(format="tar")
    said = "pg_dump: error: could not write to output file: No space left on device"

    failure = await plant.failure(claim, **plant.pg_dump(f"echo '{said}' >&2; exit 1"))

    assert isinstance(failure, TemporaryError)
    assert (failure.code, failure.sentence) == (
        "tmp_full",
        "pg_dump found no room in /tmp: make room there, or ask for format sql.",
    )


def test_files_without_a_name_are_found(tmp_path: Path) -> None:
    """In every process of the group, each once, and no others."""
    script = """
        f=$(mktemp); exec 8>"$f"; rm "$f"; head -c 300000 /dev/zero >&8
        f=$(mktemp); exec 9>"$f"; head -c 50000 /dev/zero >&9
        (f=$(mktemp); exec 7>"$f"; rm "$f"; head -c 7000 /dev/zero >&7; echo; sleep 60)
    """
    process = subprocess.Popen(
        ["bash", "-c", script],
        env={"TMPDIR": str(tmp_path), "PATH": os.defpath},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()

        assert unnamed_bytes(process.pid) == 307_000
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()
    wait_until(lambda: unnamed_bytes(process.pid) == 0, seconds=10, what="the group is gone")


def test_free_room_is_what_this_user_may_write(tmp_path: Path) -> None:
    """As `df` says it."""
    before = free_bytes(tmp_path)
    said = subprocess.run(
        ["df", "--output=avail", "--block-size=1", str(tmp_path)], capture_output=True, check=True, text=True
    )

    assert abs(int(said.stdout.split()[1]) - before) < 1024 * MIB
