"""One job in several chats: sent at the same time, and ended together."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.uploader.lane import Lane
from services.uploader.sender import Sender
from shared.contracts.errors import DumpLost
from shared.contracts.job import Status
from shared.storage.lanes import LaneRule
from shared.storage.spool import part_name
from tests.integration.jobs_in import find
from tests.integration.upload_plant import NO_RULE, Plant, cancelled, running
from tests.waiting import eventually

SIZES = (600, 500, 400, 300, 200, 100)
ONE_IN_AN_HOUR = LaneRule(1, 3600)


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here."""
    return home


@pytest.fixture
def chats(plant: Plant, unused_chats: Iterator[int]) -> list[int]:
    return [plant.chat_id, next(unused_chats)]


def into(chats: list[int], plant: Plant, rule: LaneRule = NO_RULE) -> Plant:
    sender = Sender(plant.database, plant.telegram, chats, Lane(plant.database, rule))
    return replace(plant, upload=replace(plant.upload, sender=sender))


def names(plant: Plant, chat_id: int) -> list[str]:
    return [message.file_name.rpartition(".")[2] for message in plant.api.messages(chat_id)]


async def test_chats_are_served_at_the_same_time(plant: Plant, chats: list[int]) -> None:
    """Each takes its parts in order; only then comes the manifest."""
    claim = await plant.claimed(sizes=SIZES)
    async with running(into(chats, plant), claim, hold_after=0) as upload:

        async def both_are_held() -> bool:
            return plant.api.held("sendDocument") == 2

        await eventually(both_are_held)
        plant.api.release()
        progress = await upload

    assert names(plant, chats[0]) == ["p00000", "p00002", "p00004", "manifest"]
    assert names(plant, chats[1]) == ["p00001", "p00003", "p00005"]
    assert progress.counts == {"parts": 6, "parts_sent": 6}


async def test_a_successor_goes_on_in_each_chat(plant: Plant, chats: list[int], tmp_path: Path) -> None:
    """Only what was under way is sent twice."""
    several = into(chats, plant)
    claim = await plant.claimed(sizes=SIZES)

    async def three_are_sent() -> bool:
        return [row["status"] for row in await plant.rows(claim)].count("sent") == 3

    async with running(several, claim, hold_after=3) as upload:
        await eventually(three_are_sent)
        await cancelled(upload)

    await several.run(await plant.claim_after(claim))

    assert sorted(names(plant, chats[0]) + names(plant, chats[1])) == [
        "manifest",
        *(f"p{index:05}" for index in range(6)),
    ]
    assert [part.chat_id for part in (await plant.manifest(tmp_path)).parts] == chats * 3
    assert (await find(plant.database, claim.job_id)).status is Status.COMPLETED


async def test_a_failure_in_one_chat_lets_the_others_end_their_call(plant: Plant, chats: list[int]) -> None:
    """Its document is recorded, so nothing is suspected; no further one is sent."""
    claim = await plant.claimed(sizes=SIZES)
    for index in (4, 5):  # whichever chat comes to its third part fails there
        (plant.prefix(claim).path / part_name(index)).unlink()
    plant.api.hang_after_storing("sendDocument", times=1)
    upload = asyncio.create_task(into(chats, plant).run(claim))

    async def one_comes_to_its_third() -> bool:
        return [row["status"] for row in await plant.rows(claim)].count("sent") == 2

    await eventually(one_comes_to_its_third)
    _, still_running = await asyncio.wait([upload], timeout=0.3)
    plant.api.release()

    with pytest.raises(DumpLost):
        await upload
    assert still_running == {upload}
    assert sorted(row["status"] for row in await plant.rows(claim)) == ["planned"] * 3 + ["sent"] * 3


async def test_a_failure_in_one_chat_ends_the_wait_for_another(plant: Plant, chats: list[int]) -> None:
    """Whose turn may come in an hour."""
    claim = await plant.claimed(sizes=SIZES)
    (plant.prefix(claim).path / part_name(1)).unlink()
    several = into(chats, plant, ONE_IN_AN_HOUR)
    async with several.upload.sender.lane.turn(plant.telegram.bot_id, chats[0], None):
        pass

    async with asyncio.timeout(10):
        with pytest.raises(DumpLost):
            await several.run(claim)

    assert [row["status"] for row in await plant.rows(claim)] == ["planned"] * 6
