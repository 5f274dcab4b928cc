"""A dump that takes too long or is cancelled, whatever hangs: all of it is gone within seconds."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox.process import alive, children_of
from services.exporter.probe import probing
from services.exporter.snapshot import hold_snapshot
from services.exporter.stages import COMPRESS
from services.exporter.tenant import open_tenant
from shared.contracts.errors import PermanentError
from shared.contracts.job import Compression
from tests.integration.export_plant import Gate, Plant, failure_of, plant_on
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from io import FileIO


HOLD_WITHIN = '$REAL "$@" | { head -c 20000; read -r < "$GATE"; cat; }'
LIMIT_SECONDS = 3.0
#: From the limit to the last trace; the aim is 2 s.
DEADLINE_SECONDS = 10.0


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    async with plant_on(home, tmp_path, role_passwords) as plant:
        await plant.add_tenant(rows=5000)
        yield plant


@pytest.fixture
def frozen_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A stage that reads a little and then waits, as for a disk that does not answer; set when it does."""
    frozen, thaws = threading.Event(), threading.Event()

    def freezes(source: FileIO, _sink: FileIO) -> None:
        source.read(1)
        frozen.set()
        thaws.wait()

    monkeypatch.setitem(COMPRESS, Compression.NONE, freezes)
    yield frozen
    thaws.set()


async def all_gone(plant: Plant, groups: set[int], *, since: float) -> None:
    """No process, no server session, no file, before the deadline."""

    async def gone() -> bool:
        return plant.files() == [] and not any(map(_lives, groups)) and await plant.has_no_session()

    await eventually(gone, seconds=DEADLINE_SECONDS)
    assert time.monotonic() - since < DEADLINE_SECONDS


def _lives(group: int) -> bool:
    """What has ended and only waits for its parent to notice does not."""
    return any(alive(int(path.name)) and _group_of(path) == group for path in Path("/proc").glob("[0-9]*"))


def _group_of(process: Path) -> int | None:
    with suppress(ProcessLookupError):
        return os.getpgid(int(process.name))
    return None


async def begun(plant: Plant, children: set[int]) -> set[int]:
    """The process groups of an attempt whose sessions are open: the probe's, the snapshot's, pg_dump's."""

    async def dumping() -> bool:
        return len(await plant.sessions()) == 3

    await eventually(dumping)
    return set(children_of(os.getpid())) - children


async def timed_out(attempt: asyncio.Task[None]) -> None:
    failure = await failure_of(attempt)
    assert isinstance(failure, PermanentError)
    assert failure.code == "time_limit"


async def test_a_frozen_pg_dump_is_ended_at_the_limit(plant: Plant, gate: Gate) -> None:
    """SIGSTOP for its whole process group: it answers no signal but SIGKILL."""
    claim, children = await plant.claim(), set(children_of(os.getpid()))
    limit = str(LIMIT_SECONDS)
    attempt = asyncio.create_task(
        plant.attempt(claim, PGFERRY_DUMP_SECONDS=limit, **plant.pg_dump(HOLD_WITHIN, gate=gate))
    )
    limited_since = time.monotonic() + LIMIT_SECONDS
    await gate.reached()
    groups = await begun(plant, children)
    for group in groups:
        os.killpg(group, signal.SIGSTOP)

    await timed_out(attempt)

    assert groups
    await all_gone(plant, groups, since=limited_since)


async def test_a_frozen_stage_does_not_keep_the_server_waiting(
    plant: Plant, frozen_stage: threading.Event
) -> None:
    """Its thread cannot be ended, and is left behind."""
    claim, children = await plant.claim(compression="none"), set(children_of(os.getpid()))
    program = plant.pg_dump('$REAL "$@"; exec >&-; sleep 60')
    attempt = asyncio.create_task(
        plant.attempt(
            claim, PGFERRY_DUMP_SECONDS=str(LIMIT_SECONDS), PGFERRY_PART_SIZE_BYTES="65536", **program
        )
    )
    limited_since = time.monotonic() + LIMIT_SECONDS
    await asyncio.to_thread(frozen_stage.wait, LIMIT_SECONDS)
    groups = set(children_of(os.getpid())) - children

    await timed_out(attempt)

    assert groups
    await all_gone(plant, groups, since=limited_since)


async def test_a_cancel_does_not_wait_for_a_frozen_stage(plant: Plant, frozen_stage: threading.Event) -> None:
    """The same for whoever cancels."""
    claim, children = await plant.claim(compression="none"), set(children_of(os.getpid()))
    attempt = asyncio.create_task(plant.attempt(claim, **plant.pg_dump('$REAL "$@"; exec >&-; sleep 60')))
    await asyncio.to_thread(frozen_stage.wait, 10)
    groups = set(children_of(os.getpid())) - children

    since = time.monotonic()
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)

    assert attempt.cancelled()
    await all_gone(plant, groups, since=since)


async def test_a_running_count_is_ended_on_the_server(plant: Plant) -> None:
    """A server that counts looks at nobody until it is done: it is told."""
    claim = await plant.claim()
    url = plant.environment["TENANT_DATABASE_URL"]
    await plant.owner.execute("CREATE VIEW tenant_acme.slow AS SELECT pg_sleep(60)::text")
    await plant.owner.execute("GRANT SELECT ON tenant_acme.slow TO pgferry_dump")

    async def count_for_ever() -> None:
        async with (
            probing(url, claim, "tenant_acme", answer_seconds=5) as probe,
            open_tenant(url, claim) as connection,
        ):
            tables = await probe.tables()
            async with hold_snapshot(
                connection, claim, schema="tenant_acme", tables=tables, lock_seconds=5, dump_seconds=60
            ) as snapshot:
                slow = [replace(tables[0], name="slow", has_rows=True)]
                await replace(snapshot, tables=slow).count_rows()

    counting = asyncio.create_task(count_for_ever())

    async def counts() -> bool:
        return any("slow" in session["query"] for session in await plant.sessions())

    await eventually(counts)
    since = time.monotonic()
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)

    assert counting.cancelled()
    await all_gone(plant, set(), since=since)
