"""A spool whose disk does not answer, at each call of a dump: the attempt ends, and so does its lease."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.contracts.errors import Failure, Unavailable
from shared.runtime.worker import Progress
from shared.storage.spool import Prefix, Spool
from tests.integration.export_plant import Plant, failure_of, plant_on


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    async with plant_on(home, tmp_path, role_passwords) as plant:
        await plant.add_tenant()
        yield plant


@pytest.fixture
def thaws(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What a disk waits for that does not answer; short are the times it is given."""
    for name in ("ANSWER_SECONDS", "FROZEN_SECONDS"):
        monkeypatch.setattr(f"shared.runtime.spool_calls.{name}", 1.0)
    monkeypatch.setattr("services.exporter.export.FROZEN_SECONDS", 1.0)
    event = threading.Event()
    yield event
    event.set()


async def failed(work: Any) -> Failure:  # noqa: ANN401
    """In time; else it would hang as the disk does."""
    async with asyncio.timeout(60):
        return await failure_of(work)


@pytest.mark.parametrize("call", ["create", "write_dump"])
async def test_a_call_that_hangs_costs_no_attempt(
    plant: Plant, thaws: threading.Event, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes back, and no tenant's lock waits."""
    monkeypatch.setattr(Prefix, call, lambda *_: thaws.wait())

    failure = await failed(plant.attempt(await plant.claim()))

    assert isinstance(failure, Unavailable)
    assert failure.name == "spool"


async def test_a_volume_that_does_not_tell_its_room_costs_no_attempt(
    plant: Plant, thaws: threading.Event
) -> None:
    """It is asked before anything is locked."""

    def hangs(_folder: Path) -> int:
        thaws.wait()
        return 0

    export = replace(plant.export(), free=hangs)

    assert isinstance(await failed(export(await plant.claim(), Progress())), Unavailable)


async def test_a_disk_that_fails_and_then_hangs_costs_no_attempt(
    plant: Plant, thaws: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is the spool that is gone is asked while the snapshot is held: not for long."""

    def fails(_prefix: Prefix) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(Prefix, "create", fails)
    monkeypatch.setattr(Spool, "probe", lambda _spool: thaws.wait())

    assert isinstance(await failed(plant.attempt(await plant.claim())), Unavailable)


async def test_a_removal_that_hangs_keeps_no_dump(
    plant: Plant, thaws: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What earlier attempts left is the sweeper's."""
    monkeypatch.setattr(Spool, "remove_older", lambda *_: thaws.wait())
    claim = await plant.claim()

    async with asyncio.timeout(60):
        await plant.attempt(claim)

    assert plant.prefix(claim).read_dump().parts


async def test_a_failure_is_told_though_its_files_cannot_be_removed(
    plant: Plant, thaws: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ends with the attempt."""
    monkeypatch.setattr(Prefix, "remove", lambda _prefix: thaws.wait())

    failure = await failed(plant.attempt(await plant.claim(), **plant.pg_dump("exit 3")))

    assert not isinstance(failure, Unavailable)
