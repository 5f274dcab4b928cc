"""A group that becomes a supergroup gets another id, which everything that posts follows."""

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.uploader.catalogue import KeepCatalogue
from services.uploader.lane import Lane
from services.uploader.removal import removal_of
from services.uploader.sender import Sender
from shared.runtime.signing import CATALOGUE, Signer
from tests.integration.upload_plant import NO_RULE, SIGNING_KEY, Plant, running

_STATUSES = "SELECT chat_id, status FROM control_plane.backup_parts WHERE job_id = $1"


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    return home


@pytest.fixture
def new_chat_id(chat_id: int) -> int:
    return chat_id - 1_000_000


async def test_parts_go_where_the_group_is_now(plant: Plant, new_chat_id: int, tmp_path: Path) -> None:
    """Those before stay where they are; nothing is suspected, and a person is told once."""
    claim = await plant.claimed()
    with capture_logs() as logs:
        async with running(plant, claim, hold_after=1) as upload:
            plant.api.migrate(plant.chat_id, new_chat_id)
            plant.api.release()
            await upload

    manifest = await plant.manifest(tmp_path, chat_id=new_chat_id)
    assert [part.chat_id for part in manifest.parts] == [plant.chat_id, new_chat_id, new_chat_id]
    assert [row["send_attempts"] for row in await plant.rows(claim)] == [1, 2, 1, 1]
    assert await plant.owner.fetchval("SELECT count(*) FROM control_plane.suspected_sends") == 0
    [told] = [entry for entry in logs if "supergroup" in entry["event"]]
    assert (told["chat_id"], told["new_chat_id"]) == (plant.chat_id, new_chat_id)


async def test_the_new_id_is_remembered(plant: Plant, new_chat_id: int) -> None:
    """Nobody asks under the old one again, whatever the settings say."""
    plant.api.migrate(plant.chat_id, new_chat_id)
    await plant.run(await plant.claimed())
    refused = plant.api.calls()["sendDocument"][400]

    await into(plant, plant.chat_id).run(await plant.claimed())

    assert plant.api.calls()["sendDocument"][400] == refused
    assert (len(plant.messages), len(plant.api.messages(new_chat_id))) == (0, 8)


async def test_two_ids_of_one_chat_are_one_line(plant: Plant, new_chat_id: int, tmp_path: Path) -> None:
    """A job makes one post at a time in a chat, by whatever ids the settings name it."""
    plant.api.migrate(plant.chat_id, new_chat_id)
    async with plant.database.session() as session:
        await session.chats.moved(plant.chat_id, new_chat_id)
    claim = await plant.claimed()

    async with running(into(plant, plant.chat_id, new_chat_id), claim, hold_after=0) as upload:
        assert plant.api.held("sendDocument") == 1
        plant.api.release()
        await upload

    names = [message.file_name.rpartition(".")[2] for message in plant.api.messages(new_chat_id)]
    assert names == ["p00000", "p00001", "p00002", "manifest"]


def into(plant: Plant, *chats: int) -> Plant:
    """As another process has it."""
    sender = Sender(plant.database, plant.telegram, chats, plant.upload.sender.lane)
    return replace(plant, upload=replace(plant.upload, sender=sender))


async def test_what_is_to_be_deleted_in_the_old_group_remains(plant: Plant, new_chat_id: int) -> None:
    """Nothing can be reached there: it is recorded, and the round goes on."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=2):
        pass
    async with plant.database.session() as session:
        await session.parts.supersede_all(claim.job_id)
    plant.api.migrate(plant.chat_id, new_chat_id)

    counts = await removal_of(plant.database, plant.telegram).round()

    assert (counts["remains"], counts["deleted"]) == (2, 0)
    rows = await plant.owner.fetch(_STATUSES, claim.job_id)
    assert sum(tuple(row) == (plant.chat_id, "remote_remains") for row in rows) == 2


async def test_the_catalogue_follows(plant: Plant, new_chat_id: int) -> None:
    """A new one is pinned where the group is now; the one before stays where it is."""
    await plant.run(await plant.claimed())
    keep = KeepCatalogue(
        plant.database,
        plant.telegram,
        Signer.of([SIGNING_KEY], purpose=CATALOGUE),
        plant.chat_id,
        seconds=0,
        lane=Lane(plant.database, NO_RULE),
    )
    await keep()
    plant.api.migrate(plant.chat_id, new_chat_id)

    counts = await keep()

    assert counts == {"sent": 1, "pinned": 1, "deleted": 0, "replaced": 0, "remains": 1}
    [message] = plant.api.messages(new_chat_id)
    assert message.pinned
    assert message.file_name.endswith(".catalogue")
    assert await keep() == {"sent": 0, "pinned": 0, "deleted": 0, "replaced": 0, "remains": 0}
