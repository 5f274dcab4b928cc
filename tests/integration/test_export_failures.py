"""Every failure has its name, says what to do next, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

import asyncpg
import pytest

from services.exporter.export import Export
from services.exporter.snapshot import EXPORT_AGAINST_RESTORE
from shared.contracts.errors import LeaseLost, PermanentError, TemporaryError
from shared.runtime.worker import Progress
from shared.storage.spool import Prefix, Spool
from tests.integration.export_plant import Gate, Plant, failure_of, plant_on
from tests.integration.jobs_in import outbox_refuses
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from uuid import UUID

    from shared.contracts.job import Claim

HOLD_WITHIN = '$REAL "$@" | { head -c 20000; read -r < "$GATE"; cat; }'


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    async with plant_on(home, tmp_path, role_passwords) as plant:
        yield plant


async def test_an_unknown_project_fails_for_good(plant: Plant) -> None:
    failure = await plant.failure(await plant.claim("nobody"))

    assert isinstance(failure, PermanentError)
    assert (failure.code, failure.sentence) == (
        "unknown_project",
        "No project 'nobody' in control_plane.projects; add it, then ask again.",
    )


INVALID_SLUGS = ["A", "a*b", "a.b", 'a"', "a b", "", "-a", "_a", "a\n", "ü", "a" * 57, "a; DROP SCHEMA x"]


async def test_an_invalid_slug_fails_for_good_even_if_its_schema_exists(plant: Plant) -> None:
    """The first wall; nobody asks the tenant server for it."""
    for number, slug in enumerate(INVALID_SLUGS):
        quoted = '"' + f"tenant_{slug}".replace('"', '""') + '"'
        await plant.owner.execute(f"CREATE SCHEMA {quoted}")
        await plant.add_project(slug, project_id=f"p{number}")

        failure = await plant.failure(await plant.claim(f"p{number}"))

        assert isinstance(failure, PermanentError)
        assert failure.code == "invalid_slug"
        assert failure.sentence.endswith("correct it in control_plane.projects.")


async def test_a_restore_of_the_project_keeps_the_export_away(plant: Plant) -> None:
    """The other way round the shared lock keeps a restore away."""
    await plant.add_tenant()
    claim = await plant.claim()

    await plant.owner.execute("SELECT pg_advisory_lock($1, hashtext($2))", EXPORT_AGAINST_RESTORE, "acme")
    failure = await plant.failure(claim)
    await plant.owner.execute("SELECT pg_advisory_unlock_all()")

    assert isinstance(failure, TemporaryError)
    assert failure.code == "restore_running"


@dataclass(frozen=True, slots=True)
class FullSpool(Spool):
    """A spool on a disk that has room for folders only."""

    def prefix(self, job_id: UUID, fence: int) -> Prefix:
        return FullPrefix(self.root / str(job_id) / str(fence))


@dataclass(frozen=True, slots=True)
class FullPrefix(Prefix):
    first: str = "part-"

    @contextmanager
    def writing(self, name: str) -> Iterator[FileIO]:
        if not name.startswith(self.first):
            with Prefix(self.path).writing(name) as file:
                yield file
            return
        with FileIO("/dev/full", "wb") as file:
            yield file


@dataclass(frozen=True, slots=True)
class AlmostFullSpool(Spool):
    """A spool whose disk is full when all parts are written."""

    def prefix(self, job_id: UUID, fence: int) -> Prefix:
        return FullPrefix(self.root / str(job_id) / str(fence), first="dump.json")


@pytest.mark.parametrize("spool", [FullSpool, AlmostFullSpool])
@pytest.mark.parametrize("recipients", [True, False], ids=["age", "clear"])
async def test_a_full_spool_is_told_and_freed(
    plant: Plant,
    spool: type[Spool],
    recipients: bool,  # noqa: FBT001
) -> None:
    """Whether it ends with the first part or with the last file."""
    await plant.add_tenant()
    clear = {"PGFERRY_AGE_RECIPIENTS": "", "PGFERRY_ALLOW_UNENCRYPTED": "true"}
    export = plant.export(**({} if recipients else clear))
    full = Export(export.database, spool(export.spool.root), export.clients, export.settings)

    failure = await failure_of(full(await plant.claim(), Progress()))

    assert isinstance(failure, TemporaryError)
    assert (failure.code, failure.sentence) == ("spool_full", "The spool has no room for the dump.")
    assert plant.files() == []


async def test_a_spool_that_is_gone_is_told(plant: Plant, gate: Gate) -> None:
    """Somebody removes the prefix while the dump is written; the sentence shows no path of ours."""
    await plant.add_tenant(rows=5000)
    claim = await plant.claim(compression="none")

    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLD_WITHIN, gate=gate)
        attempt = tasks.create_task(plant.failure(claim, PGFERRY_PART_SIZE_BYTES="65536", **program))
        await gate.reached()
        plant.prefix(claim).remove()
        gate.open()

    assert isinstance(attempt.result(), TemporaryError)
    assert attempt.result().code == "spool_failed"
    assert str(plant.spool.root) not in attempt.result().sentence


async def test_a_superseded_attempt_deletes_its_dump_and_changes_nothing(plant: Plant, gate: Gate) -> None:
    """The fence has moved on while it dumped."""
    await plant.add_tenant()
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLD_WITHIN, gate=gate)
        attempt = tasks.create_task(lost(plant, claim, program))
        await gate.reached()
        await plant.owner.execute("UPDATE control_plane.jobs SET fence = fence + 1")
        before = await plant.owner.fetch("SELECT * FROM control_plane.jobs")
        gate.open()

    assert isinstance(attempt.result(), LeaseLost)
    assert plant.files() == []
    assert await plant.owner.fetch("SELECT * FROM control_plane.jobs") == before
    assert await plant.owner.fetch("SELECT FROM control_plane.outbox") == []


async def test_a_dump_is_not_recorded_without_its_message(plant: Plant) -> None:
    """If the outbox cannot keep `dump.ready`, the job is still being dumped, and nothing is announced."""
    await plant.add_tenant()
    claim = await plant.claim()
    before = await plant.owner.fetch("SELECT * FROM control_plane.jobs")

    async with outbox_refuses(plant.owner, "dump.ready.v1"):
        with pytest.raises(asyncpg.CheckViolationError):
            await plant.attempt(claim)

    assert await plant.owner.fetch("SELECT * FROM control_plane.jobs") == before
    assert await plant.owner.fetch("SELECT FROM control_plane.outbox") == []


async def lost(plant: Plant, claim: Claim, program: dict[str, str]) -> LeaseLost:
    with pytest.raises(LeaseLost) as caught:
        await plant.attempt(claim, **program)
    return caught.value


async def test_a_cancelled_attempt_leaves_nothing(plant: Plant, gate: Gate) -> None:
    """No process, no session (the fixture looks), no file; and that within two seconds."""
    await plant.add_tenant(rows=5000)
    claim = await plant.claim()
    attempt = asyncio.create_task(plant.attempt(claim, **plant.pg_dump(HOLD_WITHIN, gate=gate)))
    await gate.reached()

    attempt.cancel()
    async with asyncio.timeout(2):
        with pytest.raises(asyncio.CancelledError):
            await attempt

    assert plant.files() == []


async def test_the_next_attempt_ends_what_an_earlier_one_left(plant: Plant, gate: Gate) -> None:
    """Its sessions and its files, of this job alone: its worker may have died or slept."""
    await plant.add_tenant(rows=5000)
    await plant.add_tenant("other")
    other = await plant.claim("other")
    claim = await plant.claim()
    left = plant.prefix(claim)
    left.create()
    (left.path / "part-00000").write_bytes(b"half")
    plant.prefix(other).create()
    url = plant.environment["TENANT_DATABASE_URL"]
    mine, theirs = [
        await asyncpg.connect(url, server_settings={"application_name": held.application_name})
        for held in (claim, other)
    ]
    await plant.owner.execute("UPDATE control_plane.jobs SET lease_until = now() WHERE id = $1", claim.job_id)

    again = await plant.claim_again()
    await plant.attempt(again)

    await eventually_closed(mine)
    assert await theirs.fetchval("SELECT 1") == 1
    await theirs.close()
    assert again.fence == claim.fence + 1
    assert not left.path.exists()
    assert plant.prefix(other).path.exists()
    assert plant.prefix(again).read_dump().rows == 15000


async def eventually_closed(session: asyncpg.Connection) -> None:
    async def closed() -> bool:
        return session.is_closed()

    await eventually(closed)
