"""Backups whose time is over: which go, and what becomes of their documents."""

import asyncio
import json
from functools import partial
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest

from services.uploader.lane import Lane
from services.uploader.removal import Remover
from shared.storage.database import open_database
from shared.storage.expiry import KINDS, Expiry
from shared.storage.lanes import LaneRule
from shared.storage.superseded import SupersededParts
from shared.telegram.removal import Removal
from tests.integration.upload_plant import Plant
from tests.waiting import eventually

_STATUS = "SELECT status FROM control_plane.backups WHERE id = $1"
_WAITING = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
_AUDIT = """
    SELECT actor, action, backup_id, detail FROM control_plane.audit_log
     WHERE action LIKE 'backup.%' ORDER BY id
"""


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here."""
    return home


@pytest.fixture(autouse=True)
async def no_backups(plant: Plant) -> None:
    """Each test begins with an empty chat and nothing recorded."""
    await plant.owner.execute("TRUNCATE control_plane.backups, control_plane.audit_log")


async def stored(plant: Plant, *, over: bool = True) -> UUID:
    """A backup in the chat, a second older than the next one; its time is `over` or not."""
    claim = await plant.claimed({"expires_in_days": 7})
    await plant.run(claim)
    await plant.owner.execute("UPDATE control_plane.backups SET created_at = created_at - interval '1 s'")
    if over:
        await plant.owner.execute(
            "UPDATE control_plane.backups SET expires_at = now() - interval '1 s' WHERE job_id = $1",
            claim.job_id,
        )
    backup_id: UUID = (await plant.backup(claim))["id"]
    return backup_id


async def status(plant: Plant, backup_id: UUID) -> str:
    found: str = await plant.owner.fetchval(_STATUS, backup_id)
    return found


async def audit(plant: Plant) -> list[asyncpg.Record]:
    return list(await plant.owner.fetch(_AUDIT))


def remover(plant: Plant) -> Remover:
    return Remover(SupersededParts(plant.database, plant.telegram.bot_id), Removal(plant.telegram.bot))


def there(plant: Plant) -> list[int]:
    return [message.message_id for message in plant.messages if not message.deleted]


async def test_an_expired_backup_goes_and_the_newest_stays(plant: Plant) -> None:
    """Documents first, the state last; who did it is in the audit log."""
    old, newest = await stored(plant), await stored(plant)
    expiry = Expiry(plant.database, actor="somebody")

    assert await expiry() == {"expired": 1, "deleted": 0, "remains": 0}
    assert (await status(plant, old), await status(plant, newest)) == ("expiring", "stored")
    await remover(plant)()
    assert await expiry() == {"expired": 0, "deleted": 1, "remains": 0}

    assert (await status(plant, old), await status(plant, newest)) == ("deleted", "stored")
    assert there(plant) == [5, 6, 7, 8]
    assert [(row["actor"], row["action"], row["backup_id"]) for row in await audit(plant)] == [
        ("somebody", "backup.expire", old),
        ("somebody", "backup.delete", old),
    ]
    assert await expiry() == dict.fromkeys(KINDS, 0)


async def test_what_is_not_over_stays(plant: Plant) -> None:
    """However many newer ones there are."""
    kept = await stored(plant, over=False)
    await stored(plant)

    assert await Expiry(plant.database)() == dict.fromkeys(KINDS, 0)

    assert await status(plant, kept) == "stored"


async def test_many_at_once_keep_the_newest(plant: Plant) -> None:
    """Each chooses and marks in one statement."""
    backups = [await stored(plant) for _ in range(4)]

    rounds = await asyncio.gather(*(Expiry(plant.database).expire() for _ in range(4)))

    assert sorted(one.id for marked in rounds for one in marked) == sorted(backups[:3])
    assert await status(plant, backups[-1]) == "stored"


async def test_a_newer_backup_that_goes_itself_keeps_nothing_alive(plant: Plant) -> None:
    """Only what is stored counts as newer: the last good one stays."""
    good, lost = await stored(plant), await stored(plant)
    await plant.owner.execute("UPDATE control_plane.backups SET status = 'lost' WHERE id = $1", lost)

    assert (await Expiry(plant.database)())["expired"] == 0

    assert await status(plant, good) == "stored"


async def test_what_is_due_is_told_with_whether_it_goes(plant: Plant) -> None:
    """For `pgferry backups expire --dry-run`: nothing is changed by it."""
    old, newest = await stored(plant), await stored(plant)

    due = await Expiry(plant.database).due("acme")

    assert {one.id: one.goes for one in due} == {old: True, newest: False}
    assert await Expiry(plant.database).due("another") == []
    assert await status(plant, old) == "stored"


async def test_a_backup_of_which_no_document_is_known_is_not_called_deleted(plant: Plant) -> None:
    """Nobody has removed what no row names: all of it counts as left."""
    old = await stored(plant)
    await stored(plant)
    await plant.owner.execute(
        "DELETE FROM control_plane.backup_parts WHERE job_id = (SELECT job_id FROM control_plane.backups"
        " WHERE id = $1)",
        old,
    )

    assert await Expiry(plant.database)() == {"expired": 1, "deleted": 0, "remains": 1}

    assert await status(plant, old) == "remote_remains"
    assert json.loads((await audit(plant))[-1]["detail"]) == {"documents_left": 4}


async def test_the_last_is_kept_while_the_newest_is_given_up(plant: Plant) -> None:
    """Whoever expires backups at that moment waits, and sees then that there is no newer one."""
    old, newest = await stored(plant), await stored(plant)
    expiry = Expiry(plant.database)
    async with plant.owner.transaction():
        await plant.owner.execute("SELECT FROM control_plane.backup_parts FOR UPDATE")
        discard = asyncio.create_task(expiry.discard(newest, even_newest=True))
        await eventually(partial(_waiting, plant, 1))
        expire = asyncio.create_task(expiry.expire())
        await eventually(partial(_waiting, plant, 2))

    assert (await discard, await expire) == (True, [])
    assert (await status(plant, old), await status(plant, newest)) == ("stored", "expiring")


async def _waiting(plant: Plant, number: int) -> bool:
    """Asked outside the test's own transaction, which would go on seeing what it saw first."""
    async with plant.database.session() as session:
        return bool(await session.executor.fetchval(_WAITING) == number)


async def test_an_old_backup_leaves_tombstones(plant: Plant) -> None:
    """What a bot may not delete after 48 hours it replaces."""
    old = await stored(plant)
    await stored(plant)
    plant.api.advance_clock(49 * 3600)
    await Expiry(plant.database)()
    await remover(plant)()

    await Expiry(plant.database)()

    assert await status(plant, old) == "deleted"
    assert [message.file_name for message in plant.messages[:4]] == ["removed.txt"] * 4


async def test_what_remains_in_the_chat_is_told(plant: Plant) -> None:
    """The state says it, and the audit log how many."""
    old = await stored(plant)
    await stored(plant)
    await Expiry(plant.database)()
    plant.api.refuse("deleteMessages", times=1, status=400)
    plant.api.refuse("editMessageMedia", times=1, status=400)
    await remover(plant)()

    assert await Expiry(plant.database)() == {"expired": 0, "deleted": 0, "remains": 1}

    assert await status(plant, old) == "remote_remains"
    assert json.loads((await audit(plant))[-1]["detail"]) == {"documents_left": 1}


async def test_the_uploaders_role_may_do_all_of_it(
    plant: Plant, control_plane_url: str, role_passwords: dict[str, str]
) -> None:
    """deploy/sql/roles.sql grants what expiry, removal and lanes need."""
    old = await stored(plant)
    await stored(plant)
    parts = urlsplit(control_plane_url)
    login = f"pgferry_uploader:{role_passwords['uploader']}@{parts.hostname}:{parts.port}"
    async with open_database(urlunsplit(parts._replace(netloc=login)), name="uploader") as database:
        removal = Remover(SupersededParts(database, plant.telegram.bot_id), Removal(plant.telegram.bot))
        await Expiry(database)()
        await removal()
        await Expiry(database)()
        lane = Lane(database, LaneRule(1, 0.05))
        for _ in range(2):
            async with lane.turn(plant.telegram.bot_id, plant.chat_id, old):
                pass
        await lane.flooded(plant.telegram.bot_id, plant.chat_id, 0.01)

    assert await status(plant, old) == "deleted"


async def test_a_round_that_ended_anywhere_is_gone_on_with(plant: Plant) -> None:
    """The documents are gone and nobody has marked them: the next rounds come to the same end."""
    old = await stored(plant)
    await stored(plant)
    await Expiry(plant.database)()
    await plant.telegram.bot.delete_messages(plant.chat_id, [1, 2, 3, 4])

    await remover(plant)()
    await Expiry(plant.database)()

    assert await status(plant, old) == "deleted"
