"""Sends whose outcome nobody knows, and documents that nobody needs any more."""

import asyncpg
import pytest

from services.uploader.removal import KINDS, Remover
from shared.contracts.errors import Failure, PermanentError, TemporaryError, Unavailable
from shared.contracts.job import Claim
from shared.storage.superseded import SupersededParts
from shared.telegram.removal import DELETED_AT_ONCE, Removal
from tests.integration.upload_plant import Plant, cancelled, running, unrecorded

#: The client silences the library when it is opened; pytest undoes that after each test.
QUIET = pytest.mark.filterwarnings("ignore:.*retry_after.*:telegram.warnings.PTBDeprecationWarning")

_SUSPECTED = "SELECT * FROM control_plane.suspected_sends ORDER BY id"
_AGED = "UPDATE control_plane.backup_parts SET sent_at = sent_at - make_interval(hours => $1)"


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here."""
    return home


@pytest.fixture(autouse=True)
async def nothing_suspected(plant: Plant) -> None:
    """Each test begins without suspicion."""
    await plant.owner.execute("TRUNCATE control_plane.suspected_sends")


def remover(plant: Plant) -> Remover:
    return Remover(SupersededParts(plant.database, plant.telegram.bot_id), Removal(plant.telegram.bot))


async def suspected(plant: Plant) -> list[asyncpg.Record]:
    return list(await plant.owner.fetch(_SUSPECTED))


async def given_up(plant: Plant) -> Claim:
    """A job with all its parts in the chat that was cancelled before its manifest was sent."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=3) as upload:
        await cancelled(upload)
    async with plant.database.session() as session:
        await session.parts.supersede_all(claim.job_id)
    return claim


async def superseded_set(plant: Plant, number: int) -> Claim:
    """So many parts in the chat that nobody needs any more."""
    claim = await plant.claimed(sizes=[10] * number, project=f"p{number}")
    async with running(plant, claim, hold_after=number) as upload:
        await cancelled(upload)
    async with plant.database.session() as session:
        await session.parts.supersede_all(claim.job_id)
    return claim


def there(plant: Plant) -> list[int]:
    """The messages that are still in the chat."""
    return [message.message_id for message in plant.messages if not message.deleted]


async def statuses(plant: Plant, claim: Claim) -> list[str]:
    return [row["status"] for row in await plant.rows(claim)]


# Suspected


async def test_a_send_that_was_not_recorded_is_suspected(plant: Plant) -> None:
    """The successor sends again and keeps what tells the other document from all that have a row."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=1) as upload, unrecorded(plant, claim):
        await cancelled(upload)

    await plant.run(await plant.claim_after(claim))

    [row] = await suspected(plant)
    double = plant.messages[1]
    assert (row["chat_id"], row["size_bytes"], row["sha256"]) == (
        plant.chat_id,
        double.file_size,
        double.sha256,
    )
    assert (row["kind"], row["index"], row["last_known_message_id"]) == ("part", 1, 1)


@pytest.mark.parametrize(
    ("loss", "error"), [("drop", TemporaryError), ("hang", TemporaryError)], ids=["dropped", "server gone"]
)
async def test_an_answer_that_was_lost_is_suspected(
    plant: Plant,
    loss: str,
    error: type[Failure],
) -> None:
    """The message is in the chat; the next attempt sends it again."""
    claim = await plant.claimed()
    if loss == "drop":
        plant.api.drop_after_storing("sendDocument", times=1)
        with pytest.raises(error):
            await plant.run(claim)
    else:
        async with running(plant, claim, hold_after=0) as upload:
            plant.api.kill()
            plant.api.start()
            with pytest.raises(error):
                await upload
    assert await suspected(plant) == []

    await plant.run(await plant.claim_after(claim))

    assert [row["index"] for row in await suspected(plant)] == [0]


async def test_a_manifest_that_was_made_anew_leaves_the_old_one_suspected(plant: Plant) -> None:
    """Its hash is that of the manifest that may be in the chat, not of the new one."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=3) as upload, unrecorded(plant, claim):
        await cancelled(upload)
    plant.prefix(claim).manifest_path.unlink()

    await plant.run(await plant.claim_after(claim))

    [row] = await suspected(plant)
    assert (row["kind"], row["sha256"]) == ("manifest", plant.messages[3].sha256)


@QUIET
async def test_a_flood_is_no_suspicion(plant: Plant) -> None:
    """Who is asked to wait has sent nothing, for sure."""
    plant.api.flood("sendDocument", times=1, retry_after=1)

    await plant.run(await plant.claimed())

    assert await suspected(plant) == []
    assert plant.names == ["p00000", "p00001", "p00002", "manifest"]


async def test_what_telegram_refused_or_never_got_is_no_suspicion(plant: Plant) -> None:
    """The row is planned again, as if nobody had called."""
    claim = await plant.claimed()
    plant.api.refuse("sendDocument", times=1, status=403)
    with pytest.raises(Failure):
        await plant.run(claim)
    plant.api.kill()
    try:
        with pytest.raises(Unavailable):
            await plant.run(claim)
    finally:
        plant.api.start()
    assert await statuses(plant, claim) == ["planned", "planned", "planned"]

    await plant.run(claim)

    assert await suspected(plant) == []


# To be deleted


async def test_what_a_cancelled_job_sent_is_deleted(plant: Plant) -> None:
    """The manifest was never answered: its document, if there is one, is suspected."""
    claim = await given_up(plant)
    assert len(there(plant)) == 3

    counts = await remover(plant)()

    assert counts == {"deleted": 3, "replaced": 0, "remains": 0, "suspected": 1}
    assert there(plant) == []
    assert await statuses(plant, claim) == ["deleted"] * 4
    assert await remover(plant)() == dict.fromkeys(KINDS, 0)


async def test_a_backup_is_never_deleted(plant: Plant) -> None:
    """Even where somebody has marked its rows by hand."""
    claim = await plant.claimed()
    await plant.run(claim)
    await plant.owner.execute("UPDATE control_plane.backup_parts SET status = 'superseded'")

    assert await remover(plant)() == dict.fromkeys(KINDS, 0)

    assert len(there(plant)) == 4


async def test_what_is_too_old_to_delete_is_replaced_by_a_tombstone(plant: Plant) -> None:
    """The message stays and holds a few words."""
    claim = await given_up(plant)
    plant.api.advance_clock(49 * 3600)
    await plant.owner.execute(_AGED, 49)

    counts = await remover(plant)()

    assert (counts["deleted"], counts["replaced"]) == (0, 3)
    assert {message.file_name for message in plant.messages} == {"removed.txt"}
    assert set(await statuses(plant, claim)) == {"deleted"}


async def test_what_telegram_does_not_delete_is_replaced(plant: Plant) -> None:
    """Telegram's clock decides, not ours."""
    await given_up(plant)
    plant.api.advance_clock(49 * 3600)

    counts = await remover(plant)()

    assert (counts["deleted"], counts["replaced"]) == (0, 3)


async def test_what_can_be_neither_deleted_nor_replaced_is_recorded(plant: Plant) -> None:
    """A person is told by the log, and the row says so for ever."""
    claim = await given_up(plant)
    plant.api.refuse("deleteMessages", times=1, status=400)
    plant.api.refuse("editMessageMedia", times=1, status=400)

    counts = await remover(plant)()

    assert (counts["remains"], counts["replaced"]) == (1, 2)
    assert sorted(await statuses(plant, claim)) == ["deleted", "deleted", "deleted", "remote_remains"]


@pytest.mark.parametrize("method", ["deleteMessages", "editMessageMedia"])
async def test_a_bot_that_was_removed_gives_nothing_up(plant: Plant, method: str) -> None:
    """It says nothing of the documents: when the bot is back they are deleted."""
    claim = await given_up(plant)
    if method == "editMessageMedia":
        plant.api.refuse("deleteMessages", times=1, status=400)
    plant.api.refuse(method, times=1, status=403)
    with pytest.raises(PermanentError):
        await remover(plant)()
    assert (await statuses(plant, claim))[:3] == ["superseded"] * 3

    assert (await remover(plant)())["deleted"] == 3


async def test_a_deletion_whose_answer_was_lost_is_repeated(plant: Plant) -> None:
    """Also what was gone before is marked."""
    claim = await given_up(plant)
    plant.api.drop_after_storing("deleteMessages", times=1)
    with pytest.raises(TemporaryError):
        await remover(plant)()
    assert there(plant) == []
    assert await statuses(plant, claim) == ["superseded"] * 3 + ["deleted"]

    assert (await remover(plant)())["deleted"] == 3

    assert set(await statuses(plant, claim)) == {"deleted"}


@QUIET
async def test_who_is_asked_to_wait_ends_the_round(plant: Plant) -> None:
    """The next round goes on."""
    await given_up(plant)
    plant.api.flood("deleteMessages", times=1, retry_after=60)

    assert (await remover(plant)())["deleted"] == 0
    assert (await remover(plant)())["deleted"] == 3


async def test_more_than_one_call_may_delete(plant: Plant) -> None:
    """A large dump's set is deleted call by call, in one round."""
    number = DELETED_AT_ONCE + 7
    await superseded_set(plant, number)

    assert (await remover(plant)())["deleted"] == number

    assert there(plant) == []


async def test_old_ones_do_not_hold_up_young_ones(plant: Plant) -> None:
    """Two hundred wait for their few words, ten in a round: what can still be deleted is deleted at once."""
    await superseded_set(plant, 200)
    await plant.owner.execute(_AGED, 49)
    plant.api.advance_clock(49 * 3600)
    young = await superseded_set(plant, 5)

    counts = await remover(plant)()

    assert (counts["deleted"], counts["replaced"]) == (5, 10)
    assert set(await statuses(plant, young)) == {"deleted"}
    assert len(there(plant)) == 200


async def test_what_telegram_does_not_delete_holds_up_no_others(plant: Plant) -> None:
    """A hundred of whose age Telegram thinks otherwise, and then some that are as young as they say."""
    await superseded_set(plant, DELETED_AT_ONCE)
    plant.api.advance_clock(49 * 3600)
    young = await superseded_set(plant, 5)

    counts = await remover(plant)()

    assert (counts["deleted"], counts["replaced"]) == (5, 10)
    assert set(await statuses(plant, young)) == {"deleted"}
