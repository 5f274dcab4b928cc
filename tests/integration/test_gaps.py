"""Gaps of message ids, where a document may be whose answer was lost, in a chat that is pgferry's alone."""

import asyncio
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from services.uploader.gaps import KINDS, CloseGaps
from services.uploader.removal import Remover
from shared.contracts.errors import Failure, PermanentError, TemporaryError
from shared.contracts.job import Claim
from shared.storage.superseded import SupersededParts
from shared.storage.suspected import GAPS, SUSPECT
from shared.telegram.pins import Pins
from shared.telegram.removal import DELETED_AT_ONCE, Removal
from tests.conftest import CHATS
from tests.integration.upload_plant import Plant
from tests.waiting import eventually

#: The client silences the library when it is opened; pytest undoes that after each test.
QUIET = pytest.mark.filterwarnings("ignore:.*retry_after.*:telegram.warnings.PTBDeprecationWarning")

#: The first chat of the setting, in which nothing but the catalogue is.
SHELF = CHATS[-2]
NOTHING = dict.fromkeys(KINDS, 0)
ONE = {"resolved": 1, "deleted": 1, "refused": 0}

_SUSPECTED = "SELECT * FROM control_plane.suspected_sends ORDER BY id"
_AGED = (
    "UPDATE control_plane.backup_parts SET sending_at = sending_at - $1::interval, sent_at = sent_at - $1",
    "UPDATE control_plane.suspected_sends SET sending_at = sending_at - $1::interval,"
    " suspected_at = suspected_at - $1",
)
_MANY = """
    INSERT INTO control_plane.backup_parts
        (job_id, dump_fence, kind, index, status, size_bytes, sha256, bot_id, chat_id, message_id, file_id,
         sending_at, sent_at)
    SELECT gen_random_uuid(), 1, 'part', 0, 'sent', 1, '', 1, -1000000000007, number, '',
           moment, moment + interval '1 s'
      FROM generate_series(1, 50000) AS number, make_interval(mins => number) AS ago,
           LATERAL (SELECT now() - interval '50000 min' + ago AS moment) AS told
"""

_CALLED_EARLIER = "UPDATE control_plane.suspected_sends SET sending_at = sending_at - $1::interval"


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here."""
    return home


@pytest.fixture(autouse=True)
async def nothing_suspected(plant: Plant) -> None:
    """Each test begins without suspicion."""
    await plant.owner.execute("TRUNCATE control_plane.suspected_sends, control_plane.catalogues")


@pytest.fixture(autouse=True)
async def catalogue(plant: Plant, nothing_suspected: None, tmp_path: Path) -> None:
    """Pinned in the first chat, and recorded."""
    path = tmp_path / "a.catalogue"
    path.write_bytes(b"catalogue")
    document = await plant.telegram.send(path, chat_id=SHELF, filename=path.name, caption=None)
    await Pins(plant.telegram.bot).pin(SHELF, document.message_id)
    async with plant.database.session() as session:
        await session.catalogues.found(
            plant.telegram.bot_id,
            1,
            chat_id=SHELF,
            message_id=document.message_id,
            file_id=document.file_id,
            sha256="",
            entries=0,
        )


def closing(plant: Plant, chat_id: int | None = None) -> CloseGaps:
    return CloseGaps(plant.database, plant.telegram, [SHELF, chat_id or plant.chat_id])


async def aged(plant: Plant, hours: float = 2) -> None:
    """All of it happened so much earlier."""
    for statement in _AGED:
        await plant.owner.execute(statement, timedelta(hours=hours))


async def suspected(plant: Plant) -> asyncpg.Record:
    [row] = await plant.owner.fetch(_SUSPECTED)
    return row


def there(plant: Plant) -> list[int]:
    """The messages that are still in the chat."""
    return [message.message_id for message in plant.messages if not message.deleted]


async def lose_one(plant: Plant) -> Claim:
    """Messages 1 to 4 are a backup's; 5 is the first part of a job, and its answer was lost."""
    await plant.run(await plant.claimed())
    claim = await plant.claimed()
    plant.api.drop_after_storing("sendDocument", times=1)
    with pytest.raises(TemporaryError):
        await plant.run(claim)
    return claim


async def suspect_one(plant: Plant) -> None:
    """As `lose_one`; 6 to 9 are what the successor has sent. Two hours ago."""
    claim = await lose_one(plant)
    await plant.run(await plant.claim_after(claim))
    await aged(plant)


async def one_round(plant: Plant) -> None:
    await closing(plant)()


async def post(plant: Plant, directory: Path, number: int = 1, name: str = "note.txt") -> int:
    """Somebody's documents, of which no row tells; returns the last one's id."""
    path = directory / name
    path.write_bytes(b"a person's words")
    for _ in range(number):
        document = await plant.telegram.send(path, chat_id=plant.chat_id, filename=name, caption=None)
    return document.message_id


async def test_a_document_whose_answer_was_lost_is_deleted(plant: Plant) -> None:
    """It alone: what is before and after it is of live backups. Then the row is done with."""
    await suspect_one(plant)

    assert await closing(plant)() == ONE

    assert there(plant) == [1, 2, 3, 4, 6, 7, 8, 9]
    row = await suspected(plant)
    assert (row["found_message_id"], row["resolved_at"] is not None) == (5, True)
    assert await closing(plant)() == NOTHING


async def test_one_that_never_arrived_is_resolved_without_a_call(plant: Plant) -> None:
    """Nothing lies between the messages that are known."""
    await plant.run(await plant.claimed())
    claim = await plant.claimed()
    plant.api.refuse("sendDocument", times=1, status=502)
    with pytest.raises(TemporaryError):
        await plant.run(claim)
    await plant.run(await plant.claim_after(claim))
    await aged(plant)

    assert await closing(plant)() == {"resolved": 1, "deleted": 0, "refused": 0}

    assert there(plant) == list(range(1, 9))
    assert (await suspected(plant))["found_message_id"] is None


async def test_a_document_in_flight_is_never_deleted(plant: Plant) -> None:
    """It lies in the gap and nobody knows its id; its row says that its answer may still be recorded."""
    claim = await lose_one(plant)
    flying = await plant.claimed(project="bolt")
    plant.api.hang_after_storing("sendDocument", times=1)
    upload = asyncio.create_task(plant.run(flying))

    async def has_arrived() -> bool:
        return len(plant.messages) == 6

    await eventually(has_arrived)
    await plant.run(await plant.claim_after(claim))
    await aged(plant)
    assert await closing(plant)() == NOTHING

    plant.api.release()
    await upload

    assert await closing(plant)() == ONE
    assert there(plant) == [1, 2, 3, 4, *range(6, 14)]


@pytest.mark.parametrize("status", ["sent", "superseded", "deleted", "remote_remains"])
async def test_what_a_row_knows_is_never_deleted(plant: Plant, status: str) -> None:
    """Whatever it says of the message, and whichever bot has sent it."""
    claim = await lose_one(plant)
    between = await plant.claimed(project="bolt")
    await plant.run(between)
    await plant.run(await plant.claim_after(claim))
    await aged(plant)
    await plant.owner.execute(
        "UPDATE control_plane.backup_parts SET status = $2, bot_id = 42 WHERE job_id = $1",
        between.job_id,
        status,
    )

    assert await closing(plant)() == ONE

    assert there(plant) == [1, 2, 3, 4, *range(6, 14)]


async def test_what_a_cancelled_job_may_have_sent_is_deleted(plant: Plant) -> None:
    """Where the gap ends at a message that was recorded long enough ago: not before somebody sends one."""
    claim = await lose_one(plant)
    async with plant.database.session() as session:
        await session.parts.supersede_all(claim.job_id)
    await Remover(SupersededParts(plant.database, plant.telegram.bot_id), Removal(plant.telegram.bot))()
    await aged(plant)
    assert await closing(plant)() == NOTHING
    await plant.run(await plant.claimed(project="bolt"))
    assert await closing(plant)() == NOTHING
    await aged(plant)

    assert await closing(plant)() == ONE

    assert there(plant) == [1, 2, 3, 4, 6, 7, 8, 9]


async def test_several_that_were_lost_in_one_gap_are_all_deleted(plant: Plant) -> None:
    """Which of them is whose nobody knows."""
    claim = await lose_one(plant)
    plant.api.drop_after_storing("sendDocument", times=1)
    claim = await plant.claim_after(claim)
    with pytest.raises(TemporaryError):
        await plant.run(claim)
    await plant.run(await plant.claim_after(claim))
    await aged(plant)

    assert (await closing(plant)())["resolved"] == 2

    assert there(plant) == [1, 2, 3, 4, 7, 8, 9, 10]
    rows = await plant.owner.fetch(_SUSPECTED)
    assert [row["found_message_id"] for row in rows] == [None, None]


async def test_nothing_is_looked_at_before_an_hour(plant: Plant) -> None:
    """What was in flight then may still be."""
    await suspect_one(plant)
    await aged(plant, -1.1)

    assert await closing(plant)() == NOTHING
    assert 5 in there(plant)


async def test_nothing_is_looked_at_after_two_days(plant: Plant) -> None:
    """Of the call, however late it was suspected: a bot may not delete its document. The row stays open."""
    await suspect_one(plant)
    await plant.owner.execute(_CALLED_EARLIER, timedelta(hours=46))

    assert await closing(plant)() == NOTHING
    assert (5 in there(plant), (await suspected(plant))["resolved_at"]) == (True, None)


async def test_the_first_document_of_a_chat_is_left(plant: Plant) -> None:
    """Nothing tells where its gap begins."""
    claim = await plant.claimed()
    plant.api.drop_after_storing("sendDocument", times=1)
    with pytest.raises(TemporaryError):
        await plant.run(claim)
    await plant.run(await plant.claim_after(claim))
    await aged(plant)

    assert await closing(plant)() == NOTHING
    assert there(plant) == [1, 2, 3, 4, 5]


async def test_other_chats_than_those_of_the_setting_are_left(plant: Plant) -> None:
    """That a chat is nobody else's is said of those to which uploaders post."""
    await suspect_one(plant)

    assert await closing(plant, plant.chat_id - 1)() == NOTHING
    assert 5 in there(plant)


async def test_a_basic_group_is_left(plant: Plant) -> None:
    """Its messages are numbered with those of other chats."""
    await suspect_one(plant)
    for table in ("backup_parts", "suspected_sends"):
        await plant.owner.execute(f"UPDATE control_plane.{table} SET chat_id = -5")

    assert await closing(plant, -5)() == NOTHING


async def test_what_a_person_posted_into_the_gap_is_deleted(plant: Plant, tmp_path: Path) -> None:
    """The setting says that nobody does: whoever sets it wrongly loses such documents."""
    claim = await lose_one(plant)
    posted = await post(plant, tmp_path)
    await plant.run(await plant.claim_after(claim))
    await aged(plant)

    assert await closing(plant)() == {"resolved": 1, "deleted": 2, "refused": 0}
    assert posted not in there(plant)


async def test_a_gap_of_many_is_left(plant: Plant, tmp_path: Path) -> None:
    """So much is not what a few lost answers leave."""
    claim = await lose_one(plant)
    await post(plant, tmp_path, DELETED_AT_ONCE)
    await plant.run(await plant.claim_after(claim))
    await aged(plant)

    assert await closing(plant)() == NOTHING
    assert len(there(plant)) == len(plant.messages)


async def test_an_unknown_catalogue_keeps_all(plant: Plant, tmp_path: Path) -> None:
    """Rows that do not know it, as after the control plane was set back in time, do not know its backups."""
    await suspect_one(plant)
    pins = Pins(plant.telegram.bot)
    await pins.pin(plant.chat_id, await post(plant, tmp_path, name="a.catalogue"))

    with pytest.raises(PermanentError, match="not of this state of the control plane"):
        await closing(plant)()

    assert 5 in there(plant)


async def test_without_a_pinned_catalogue_nothing_is_deleted(plant: Plant) -> None:
    """After a control plane was set back in time nothing else would tell that rows are missing."""
    await suspect_one(plant)
    shown = await Pins(plant.telegram.bot).newest(SHELF)
    assert shown is not None
    for message in plant.api.messages(SHELF):
        await Pins(plant.telegram.bot).unpin(SHELF, message.message_id)

    with pytest.raises(PermanentError, match="No catalogue is pinned"):
        await closing(plant)()

    assert 5 in there(plant)


@pytest.mark.parametrize("step", ["refused", "held", "answer lost"])
async def test_a_round_that_ended_anywhere_is_left_to_the_next(plant: Plant, step: str) -> None:
    """Before the call, in it, and after it: the row is open until the document is gone."""
    await suspect_one(plant)
    if step == "held":
        plant.api.hold_after("deleteMessages", 0)
        task = asyncio.create_task(one_round(plant))

        async def is_held() -> bool:
            return plant.api.held("deleteMessages") == 1

        await eventually(is_held)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        plant.api.release()
    else:
        if step == "refused":
            plant.api.refuse("deleteMessages", times=1, status=500)
        else:
            plant.api.drop_after_storing("deleteMessages", times=1)
        with pytest.raises(Failure):
            await closing(plant)()
    assert (await suspected(plant))["resolved_at"] is None

    assert await closing(plant)() == ONE

    assert there(plant) == [1, 2, 3, 4, 6, 7, 8, 9]


async def test_what_telegram_does_not_delete_is_tried_again(plant: Plant) -> None:
    """The right to delete may come back; the next gap's turn comes all the same."""
    await suspect_one(plant)
    plant.api.refuse("deleteMessages", times=1, status=400)

    assert await closing(plant)() == {"resolved": 0, "deleted": 0, "refused": 1}
    assert await closing(plant)() == ONE


@QUIET
async def test_who_is_asked_to_wait_ends_the_round(plant: Plant) -> None:
    """The next round goes on."""
    await suspect_one(plant)
    plant.api.flood("deleteMessages", times=1, retry_after=60)

    assert await closing(plant)() == NOTHING
    assert await closing(plant)() == ONE


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        pytest.param(
            f"WITH before AS (SELECT * FROM control_plane.backup_parts WHERE job_id = $1) {SUSPECT}",
            (UUID(int=0),),
            id="suspect",
        ),
        pytest.param(GAPS, (1, [-1000000000007], 172800.0, 3600.0, 101), id="gaps"),
    ],
)
async def test_a_chat_of_many_documents_is_not_read_from_end_to_end(
    plant: Plant, statement: str, arguments: tuple[object, ...]
) -> None:
    """An id's neighbours are found by the index of ids, however many a chat has."""
    async with plant.owner.transaction():
        await plant.owner.execute(_MANY)
        await plant.owner.execute("ANALYZE control_plane.backup_parts")
        plan = [record[0] for record in await plant.owner.fetch(f"EXPLAIN {statement}", *arguments)]
        await plant.owner.execute("TRUNCATE control_plane.backup_parts")

    reads = [line for line in plan if "backup_parts" in line]
    assert reads
    assert not [line for line in reads if "Seq Scan" in line or "Bitmap" in line]
