"""What the sweeper removes from a real spool, and what it must never touch."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from shared.contracts.errors import Unavailable
from shared.contracts.job import Claim, StageGroup, Status
from shared.storage.cancel import cancel
from shared.storage.condemned import Condemned, JobFolder, JobState, condemned
from shared.storage.spool import DUMP_FILE, MARKER
from shared.storage.sweeper import Sweeper
from tests.integration.export_plant import Gate, Plant, plant_on
from tests.integration.jobs_in import claim, dump, dump_of, lapse
from tests.waiting import eventually

KEEP = timedelta(hours=24)
HOLD_WITHIN = '$REAL "$@" | { head -c 20000; read -r < "$GATE"; cat; }'


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    async with plant_on(home, tmp_path, role_passwords) as plant:
        yield plant


def sweeper(plant: Plant, keep: timedelta = KEEP) -> Sweeper:
    return Sweeper(plant.database, plant.spool, keep.total_seconds())


def write(plant: Plant, job_id: UUID, fence: int, *names: str) -> None:
    """A prefix with a file, whole or not."""
    prefix = plant.spool.prefix(job_id, fence)
    prefix.create()
    for name in names or (DUMP_FILE,):
        (prefix.path / name).write_text("something")


def prefixes(plant: Plant) -> set[tuple[str, int]]:
    return {(path.parent.name, int(path.name)) for path in plant.spool.root.glob("*/*")}


async def fail(plant: Plant, job_id: UUID, *, ago: timedelta) -> None:
    await plant.owner.execute(
        "UPDATE control_plane.jobs SET status = 'failed', finished_at = now() - $2::interval,"
        " lease_until = NULL WHERE id = $1",
        job_id,
        ago,
    )


async def dumped(plant: Plant, project: str) -> Claim:
    """A job whose dump, of fence 1, lies in the spool, and that an uploader holds with fence 2."""
    held = await plant.claim(project)
    write(plant, held.job_id, held.fence)
    await dump(plant.database, held)
    upload = await claim(plant.database, StageGroup.UPLOAD)
    assert upload is not None
    return upload


JOB = UUID(int=1)


@pytest.mark.parametrize(
    ("status", "past_keeping", "expected"),
    [
        pytest.param(Status.PENDING, False, Condemned(JOB, frozenset({1, 4})), id="pending"),
        pytest.param(Status.RUNNING, False, Condemned(JOB, frozenset({1, 4})), id="running"),
        pytest.param(Status.COMPLETED, False, Condemned(JOB, whole=True), id="completed"),
        pytest.param(Status.CANCELLED, False, Condemned(JOB, whole=True), id="cancelled"),
        pytest.param(
            Status.FAILED, False, Condemned(JOB, frozenset({1, 4, 5, 6}), if_empty=True), id="failed"
        ),
        pytest.param(
            Status.FAILED,
            True,
            Condemned(JOB, frozenset({1, 3, 4, 5, 6}), if_empty=True),
            id="failed-long-ago",
        ),
    ],
)
def test_what_is_condemned(status: Status, past_keeping: bool, expected: Condemned) -> None:  # noqa: FBT001
    """Of a job with fence 5 whose dump is of fence 3: what no fence can use any more."""
    folder = JobFolder(JOB, frozenset({1, 3, 4, 5, 6}), changed_at=0)

    found = condemned(folder, JobState(status, 5, 3, past_keeping=past_keeping), keep_since=0)

    assert found == expected


async def test_ended_jobs_leave_nothing(plant: Plant) -> None:
    """Completed and cancelled ones at once, with whatever a killed process left in their folders."""
    completed, cancelled = await dumped(plant, "one"), await dumped(plant, "two")
    async with plant.database.transaction() as transaction:
        await transaction.jobs.stored(completed, backup_id=uuid4())
    await lapse(plant.owner, cancelled.job_id)
    await cancel(plant.database, cancelled.job_id, actor="test")
    write(plant, completed.job_id, 7, f"part-00000.{uuid4().hex}.staging")
    (plant.spool.root / str(cancelled.job_id) / "strange").write_text("?")

    assert await sweeper(plant)() == {"prefixes": 0, "folders": 2, "parts": 0}

    assert plant.files() == []


async def test_a_job_that_goes_on_keeps_its_dump_and_its_workers_prefix(plant: Plant) -> None:
    """Older fences are removed, a lapsed lease's too once the fence was raised."""
    uploading, dumping = await dumped(plant, "one"), await plant.claim("two")
    lapsed = await plant.claim("three")
    for claimed in (dumping, lapsed):
        write(plant, claimed.job_id, claimed.fence, "part-00000", f"part-00001.{uuid4().hex}.staging")
    kept = prefixes(plant)
    assert await sweeper(plant)() == {"prefixes": 0, "folders": 0, "parts": 0}
    assert prefixes(plant) == kept

    await plant.owner.execute(
        "UPDATE control_plane.jobs SET fence = fence + 1, stage = 'queued', lease_until = NULL WHERE id = $1",
        lapsed.job_id,
    )
    assert await sweeper(plant)() == {"prefixes": 1, "folders": 0, "parts": 0}

    assert prefixes(plant) == {(str(uploading.job_id), 1), (str(dumping.job_id), dumping.fence)}


async def test_a_failed_jobs_dump_is_kept_for_its_time(plant: Plant) -> None:
    """Then it goes, and its parts in the chat with it: nobody may go on with them."""
    upload = await dumped(plant, "one")
    await plant.owner.execute(
        "INSERT INTO control_plane.backup_parts (job_id, dump_fence, kind, index, size_bytes, sha256)"
        " SELECT $1, 1, 'part', n, 1, '' FROM generate_series(0, 1) AS n",
        upload.job_id,
    )
    unsent = await plant.claim("two")
    write(plant, unsent.job_id, unsent.fence)
    for failed in (upload, unsent):
        await fail(plant, failed.job_id, ago=timedelta(hours=1))

    assert await sweeper(plant)() == {"prefixes": 1, "folders": 1, "parts": 0}
    assert prefixes(plant) == {(str(upload.job_id), 1)}

    await fail(plant, upload.job_id, ago=timedelta(hours=25))
    assert await sweeper(plant)() == {"prefixes": 1, "folders": 1, "parts": 2}

    assert plant.files() == []
    statuses = await plant.owner.fetch("SELECT DISTINCT status FROM control_plane.backup_parts")
    assert [row["status"] for row in statuses] == ["superseded"]


async def test_a_job_that_the_database_does_not_know_is_kept_as_long(plant: Plant) -> None:
    """It may have been restored from an older state; what was not changed since is removed."""
    young, old = uuid4(), uuid4()
    write(plant, young, 3)
    write(plant, old, 3)
    marker = plant.spool.root / f"{MARKER}.{uuid4()}"
    marker.write_text("of a process that was killed")
    for path in (plant.spool.root / str(old), plant.spool.root / str(old) / "3", marker):
        os.utime(path, 2 * (time.time() - 25 * 3600,))
    foreign = plant.spool.root / "lost+found"
    foreign.mkdir()

    assert await sweeper(plant)() == {"prefixes": 0, "folders": 1, "parts": 0}

    assert plant.files() == sorted(["lost+found", str(young), f"{young}/3", f"{young}/3/{DUMP_FILE}"])


async def test_a_sweep_beside_a_running_dump_does_not_touch_it(plant: Plant, gate: Gate) -> None:
    """The dump's own prefix stays from its first file to its last, and what an earlier one left goes."""
    await plant.add_tenant(rows=20000)
    first = await plant.claim(compression="none")
    await plant.owner.execute("UPDATE control_plane.jobs SET fence = 5")
    write(plant, first.job_id, 4)
    await lapse(plant.owner, first.job_id)
    held = await plant.claim_again()
    attempt = asyncio.create_task(
        plant.attempt(held, **plant.pg_dump(HOLD_WITHIN, gate=gate), PGFERRY_PART_SIZE_BYTES="65536")
    )
    await gate.reached()
    write(plant, held.job_id, 3)

    swept = await sweeper(plant)()
    gate.open()
    await attempt

    assert swept["folders"] == 0
    assert prefixes(plant) == {(str(held.job_id), held.fence)}
    assert await sweeper(plant)() == {"prefixes": 0, "folders": 0, "parts": 0}
    written = plant.prefix(held).read_dump()
    for part in written.parts:
        plant.prefix(held).loaded_part(part)


async def test_who_writes_where_it_was_swept_is_told(plant: Plant) -> None:
    """A worker that slept through the end of its job: its next file fails, and nothing comes back."""
    held = await plant.claim("one")
    prefix = plant.prefix(held)
    prefix.create()
    writing = prefix.writing("part-00001")
    writing.__enter__().write(b"half a part")
    await lapse(plant.owner, held.job_id)
    await cancel(plant.database, held.job_id, actor="test")
    assert (await sweeper(plant)())["folders"] == 1

    with pytest.raises(FileNotFoundError):
        writing.__exit__(None, None, None)
    with pytest.raises(FileNotFoundError):
        prefix.write_dump(dump_of(held))
    assert plant.files() == []


async def test_another_folder_than_the_spool_is_not_swept(plant: Plant) -> None:
    """Its jobs are all unknown; were they ours to remove, a wrong mount would cost them."""
    job_id = uuid4()
    write(plant, job_id, 1)
    (plant.spool.root / MARKER).write_text(f"{uuid4()}\n")

    with pytest.raises(Unavailable, match="not the spool"):
        await sweeper(plant, keep=timedelta(seconds=-60))()

    assert prefixes(plant) == {(str(job_id), 1)}


async def test_a_spool_that_is_gone_is_said(plant: Plant) -> None:
    """As after an unmount: nothing is made, nothing is removed."""
    plant.spool.root.rename(plant.folder / "elsewhere")

    with pytest.raises(Unavailable, match="cannot be swept"):
        await sweeper(plant)()

    (plant.folder / "elsewhere").rename(plant.spool.root)


async def test_a_folder_that_cannot_be_read_keeps_no_other(plant: Plant) -> None:
    """As one of another user's; the round goes on."""
    upload = await dumped(plant, "acme")
    other = plant.spool.root / str(uuid4())
    other.symlink_to(other)
    async with plant.database.transaction() as transaction:
        await transaction.jobs.stored(upload, backup_id=uuid4())

    await sweeper(plant)()
    other.unlink()

    assert not (plant.spool.root / str(upload.job_id)).exists()


async def test_a_disk_that_hangs_is_asked_once(plant: Plant) -> None:
    """The next round says so instead of hanging beside the first; when it answers, rounds go on."""
    marker = plant.spool.root / MARKER
    said = marker.read_text()
    marker.unlink()
    os.mkfifo(marker)
    sweep = sweeper(plant)
    hanging = asyncio.create_task(sweep())
    writers: list[int] = []

    async def reads() -> bool:
        try:
            writers.append(os.open(marker, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    await eventually(reads)
    hanging.cancel()
    await asyncio.wait([hanging])
    with pytest.raises(Unavailable, match="has not answered"):
        await sweep()

    os.close(writers.pop())
    marker.unlink()
    marker.write_text(said)

    async def answers() -> bool:
        try:
            await sweep()
        except Unavailable:
            return False
        return True

    await eventually(answers)
