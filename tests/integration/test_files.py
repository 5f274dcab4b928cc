"""Files without a job, and adopted messages: what is recorded, and what becomes of what is not."""

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from services.uploader.adopt import Adopt, Message
from services.uploader.cutting import Source
from services.uploader.files import PostedInPart, PostFile, SendFile, SentFile
from services.uploader.removal import Remover
from shared.contracts.backup import BackupType, FileOptions
from shared.contracts.errors import Failure, LeaseLost, PermanentError, TemporaryError
from shared.contracts.manifest import FileManifest, Part, manifest_of
from shared.storage.expiry import Expiry
from shared.storage.keeping import Keeping
from shared.storage.parts import FileSet, Kind
from shared.storage.superseded import SupersededParts
from shared.telegram.removal import Removal
from tests.integration.test_suspected import QUIET
from tests.integration.upload_plant import Plant
from tests.waiting import eventually

PART_BYTES = 64 * 1024
OPTIONS = FileOptions(project_id="acme", type=BackupType.LOGS, expires_in_days=7)
CONTENT = os.urandom(3 * PART_BYTES)

_TABLES = "backups, backup_parts, suspected_sends, audit_log"
_STATUSES = "SELECT status FROM control_plane.backup_parts ORDER BY kind DESC, index"
_BLOCKED = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
_WAITING = """
    SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
     WHERE NOT granted AND datname = current_database()
"""
_AGED = """
    UPDATE control_plane.backup_parts
       SET planned_at = planned_at - make_interval(hours => $1),
           sending_at = sending_at - make_interval(hours => $1),
           sent_at = sent_at - make_interval(hours => $1)
"""


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here."""
    return home


@pytest.fixture(autouse=True)
async def nothing_recorded(plant: Plant) -> AsyncIterator[None]:
    """Each test begins without a backup, and leaves nothing planned."""
    await plant.owner.execute(f"TRUNCATE control_plane.{_TABLES.replace(', ', ', control_plane.')}")
    yield
    plant.api.reset()


def sending(plant: Plant) -> SendFile:
    return SendFile(
        *(plant.database, plant.upload.sender, plant.upload.signer, "tester"),
        part_size_bytes=PART_BYTES,
        waits=(0, 0),
    )


async def send(plant: Plant, content: bytes | Path = CONTENT) -> SentFile:
    return await sending(plant)(Source("app.log", content), OPTIONS)


async def post(plant: Plant) -> SentFile:
    return await PostFile(plant.upload.sender, PART_BYTES, (0, 0))(Source("app.log", CONTENT), OPTIONS)


async def adopt(plant: Plant, message: Message) -> UUID:
    return await Adopt(plant.database, plant.telegram, "tester", (0, 0))(message, OPTIONS)


async def posted(plant: Plant, folder: Path) -> Message:
    """What somebody else's program has left in the chat."""
    path = folder / "foreign"
    await asyncio.to_thread(path.write_bytes, b"a foreign document")
    sent = await plant.telegram.send(path, chat_id=plant.chat_id, filename="foreign.bin", caption=None)
    return Message(sent.chat_id, sent.message_id, sent.file_id)


@asynccontextmanager
async def held_send(
    plant: Plant, after: int, content: bytes | Path = CONTENT
) -> AsyncIterator[asyncio.Task[SentFile]]:
    """A send whose call after so many documents waits at the stand-in until the block's end, or `release`."""
    plant.api.hold_after("sendDocument", after)
    task = asyncio.create_task(send(plant, content))
    await plant.held()
    try:
        yield task
    finally:
        plant.api.release()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def statuses(plant: Plant) -> list[str]:
    """Of the parts, then of the manifest."""
    return [row["status"] for row in await plant.owner.fetch(_STATUSES)]


async def backups(plant: Plant) -> list[asyncpg.Record]:
    return list(await plant.owner.fetch("SELECT * FROM control_plane.backups ORDER BY created_at, id"))


async def suspected(plant: Plant) -> int:
    count: int = await plant.owner.fetchval("SELECT count(*) FROM control_plane.suspected_sends")
    return count


def remover(plant: Plant) -> Remover:
    return Remover(SupersededParts(plant.database, plant.telegram.bot_id), Removal(plant.telegram.bot))


def there(plant: Plant) -> list[int]:
    return [message.message_id for message in plant.messages if not message.deleted]


async def test_the_manifest_says_all_that_is_known(plant: Plant, tmp_path: Path) -> None:
    """Signed like a dump's; the row and the answer say the same."""
    done = await send(plant)

    content = await plant.document(plant.messages[-1], tmp_path)
    document = json.loads(content)
    plant.upload.signer.verify(document)
    manifest = manifest_of(document)
    [row] = await backups(plant)
    assert isinstance(manifest, FileManifest)
    assert (manifest.project_id, manifest.type, manifest.parts) == ("acme", "logs", done.parts)
    assert manifest.stored.sha256 == done.sha256 == row["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert row["id"] == row["job_id"] == manifest.backup_id == done.backup_id
    assert row["manifest_sha256"] == hashlib.sha256(content).hexdigest()
    assert (row["part_count"], row["adopted"], row["dump_fence"]) == (4, False, 0)
    assert await statuses(plant) == ["sent"] * 5


async def test_a_document_whose_answer_was_lost_is_sent_again(plant: Plant) -> None:
    """The manifest names the second one; the first is suspected."""
    plant.api.drop_after_storing("sendDocument", times=1)

    done = await send(plant)

    assert [part.message_id for part in done.parts] == [2, 3, 4, 5]
    assert await suspected(plant) == 1
    assert len(await backups(plant)) == 1


async def test_what_cannot_be_sent_whole_is_deleted(plant: Plant) -> None:
    """At once given up; the calls whose outcome nobody knows are suspected."""
    async with held_send(plant, 2) as task:
        plant.api.drop_after_storing("sendDocument", times=3)
        plant.api.release()
        with pytest.raises(Failure):
            await task

    assert await statuses(plant) == ["superseded"] * 3
    assert (await remover(plant)())["deleted"] == 2
    assert await suspected(plant) == 3
    assert await backups(plant) == []


async def test_what_telegram_refuses_is_not_tried_again(plant: Plant) -> None:
    """Nothing is suspected, and nothing is there."""
    plant.api.refuse("sendDocument", times=1, status=403)

    with pytest.raises(PermanentError):
        await send(plant)

    assert (there(plant), await suspected(plant)) == ([], 0)
    assert await statuses(plant) == ["superseded"]


async def test_a_set_is_abandoned_after_a_day(plant: Plant) -> None:
    """Of a process that died: not before, and not while somebody still writes to it."""
    async with held_send(plant, 2) as task:
        await plant.owner.execute(_AGED, 23)
        await remover(plant)()
        assert await statuses(plant) == ["sent", "sent", "sending"]
        await plant.owner.execute("UPDATE control_plane.backup_parts SET sent_at = sent_at - interval '9 h'")
        await remover(plant)()
        assert await statuses(plant) == ["sent", "sent", "sending"]

        await plant.owner.execute(_AGED, 2)
        counts = await remover(plant)()

        assert (counts["deleted"], counts["suspected"]) == (2, 1)
        plant.api.release()
        with pytest.raises(PermanentError) as refused:
            await task
    assert refused.value.code == "file_given_up"
    assert await backups(plant) == []


async def test_what_is_recorded_is_never_abandoned(plant: Plant, tmp_path: Path) -> None:
    """Neither a file, nor an adopted message, nor what a job has sent."""
    claim = await plant.claimed()
    await plant.run(claim)
    await send(plant)
    await adopt(plant, await posted(plant, tmp_path))
    await plant.owner.execute(_AGED, 1000)

    await remover(plant)()

    assert set(await statuses(plant)) == {"sent"}


async def test_a_set_of_which_something_was_given_up_is_not_recorded(plant: Plant) -> None:
    """The backup would name documents that are to be deleted."""
    async with held_send(plant, 4) as task:
        await plant.owner.execute(
            "UPDATE control_plane.backup_parts SET status = 'superseded', superseded_at = now()"
            " WHERE kind = 'part' AND index = 0"
        )
        plant.api.release()
        with pytest.raises(PermanentError):
            await task

    assert await backups(plant) == []
    assert await statuses(plant) == ["superseded"] * 5


async def test_a_record_is_tried_again_when_the_database_is_back(plant: Plant) -> None:
    """Once, whatever became of the first try."""
    task = asyncio.create_task(send(plant))
    async with plant.owner.transaction():
        await plant.owner.execute("LOCK TABLE control_plane.backups IN ACCESS EXCLUSIVE MODE")

        async def blocked() -> bool:
            return bool(await plant.owner.fetch(_BLOCKED))

        await eventually(blocked)
        await plant.owner.execute(f"SELECT pg_terminate_backend(pid) FROM ({_BLOCKED}) AS blocked")
    done = await task

    assert [row["id"] for row in await backups(plant)] == [done.backup_id]
    assert await statuses(plant) == ["sent"] * 5


async def test_a_record_whose_commit_was_not_answered_is_found(plant: Plant, tmp_path: Path) -> None:
    """It is tried again, and there is nothing left to do."""
    done = await send(plant)
    assert done.manifest is not None
    manifest = manifest_of(json.loads(await plant.document(plant.messages[-1], tmp_path)))
    assert isinstance(manifest, FileManifest)

    await sending(plant)._record(manifest, done.manifest)

    assert len(await backups(plant)) == 1
    assert await plant.owner.fetchval("SELECT count(*) FROM control_plane.audit_log") == 1


async def test_a_file_that_becomes_shorter_is_refused(plant: Plant, tmp_path: Path) -> None:
    """What was sent of it goes."""
    path = tmp_path / "app.log"
    await asyncio.to_thread(path.write_bytes, CONTENT)
    async with held_send(plant, 1, path) as task:
        os.truncate(path, PART_BYTES)
        plant.api.release()
        with pytest.raises(PermanentError) as refused:
            await task

    assert refused.value.code == "file_changed"
    assert set(await statuses(plant)) == {"superseded"}


async def test_a_disk_that_takes_no_copy_is_told(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like any reason to stop: what was sent of the file goes, or is told."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))

    with pytest.raises(PermanentError) as sent:
        await send(plant)
    with pytest.raises(PostedInPart) as only_posted:
        await post(plant)

    assert (sent.value.code, only_posted.value.code) == ("file_unreadable", "file_unreadable")


async def test_a_file_that_grows_is_what_it_was(plant: Plant, tmp_path: Path) -> None:
    """As a log does: as much of it as there was."""
    path = tmp_path / "app.log"
    await asyncio.to_thread(path.write_bytes, CONTENT)
    async with held_send(plant, 1, path) as task:
        with path.open("ab") as file:
            file.write(b"one more line")
        plant.api.release()
        done = await task

    assert done.sha256 == hashlib.sha256(CONTENT).hexdigest()


async def test_nobody_writes_to_a_jobs_documents_without_its_lease(plant: Plant) -> None:
    """The one who made a set's id has no fence; a job's set is none of his."""
    claim = await plant.claimed()
    await plant.run(claim)
    alien = FileSet(claim.job_id)
    part = Part(index=0, size_bytes=1, sha256="0" * 64)

    async with plant.database.session() as session:
        with pytest.raises(LeaseLost):
            await session.parts.plan(alien, Kind.PART, [part])
        with pytest.raises(LeaseLost):
            await session.parts.sending(alien, Kind.PART, 0, bot_id=1, chat_id=1)

    rows = await plant.rows(claim)
    assert [row["dump_fence"] for row in rows] == [claim.dump_fence] * 4


# Without a record


@QUIET
async def test_what_is_only_sent_waits_when_it_is_asked_to(plant: Plant) -> None:
    """Its posts take turns, too; nothing is written."""
    plant.api.flood("sendDocument", times=1, retry_after=1)

    done = await post(plant)

    assert [part.message_id for part in done.parts] == [1, 2, 3, 4]
    assert (done.backup_id, done.manifest) == (None, None)
    assert (await backups(plant), await statuses(plant)) == ([], [])


async def test_what_is_only_sent_in_part_is_told(plant: Plant) -> None:
    """Its messages, and that a call without an answer may be one more: it is not repeated."""
    plant.api.hold_after("sendDocument", 2)
    task = asyncio.create_task(post(plant))
    await plant.held()
    plant.api.drop_after_storing("sendDocument", times=1)
    plant.api.release()

    with pytest.raises(PostedInPart) as failed:
        await task

    assert [part.message_id for part in failed.value.parts] == [1, 2]
    assert failed.value.sentence.endswith("Parts of it in the chat: 2. The next one may be there, too.")
    assert there(plant) == [1, 2, 3]


async def test_what_is_only_sent_in_part_is_told_when_it_is_stopped(plant: Plant) -> None:
    """By the log: who stops it gets no answer, and no row has the ids."""
    plant.api.hold_after("sendDocument", 2)
    task = asyncio.create_task(post(plant))
    await plant.held()

    with capture_logs() as logged:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    plant.api.release()

    [line] = [line for line in logged if line["log_level"] == "warning"]
    assert [part["message_id"] for part in line["parts"]] == [1, 2]


# Adopted


async def test_a_message_is_adopted_once(plant: Plant, tmp_path: Path) -> None:
    """Also when two ask at the same moment; the documents of a backup are adopted by nobody."""
    message = await posted(plant, tmp_path)
    part = (await send(plant)).parts[0]
    tasks = [asyncio.create_task(adopt(plant, message)) for _ in range(2)]
    async with plant.owner.transaction():
        await plant.owner.execute("LOCK TABLE control_plane.backups IN ACCESS EXCLUSIVE MODE")

        async def both_wait() -> bool:  # asked outside the transaction, which goes on seeing the same
            async with plant.database.session() as session:
                return bool(await session.executor.fetchval(_WAITING) == 2)

        await eventually(both_wait)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(PermanentError):
        await adopt(plant, Message(part.chat_id, part.message_id, part.file_id))

    refused = [one.code for one in results if isinstance(one, PermanentError)]
    assert refused == ["message_known"]
    assert sum(row["adopted"] for row in await backups(plant)) == 1


async def test_what_another_bot_has_sent_is_adopted_by_nobody(plant: Plant) -> None:
    """Its id is the same for all bots: at its end this one would delete what the other's backup needs."""
    part = (await send(plant)).parts[0]
    await plant.owner.execute("UPDATE control_plane.backup_parts SET bot_id = 42")

    with pytest.raises(PermanentError, match="is a recorded backup's"):
        await adopt(plant, Message(part.chat_id, part.message_id, part.file_id))


async def test_an_adopted_message_is_taken_out_of_the_chat_at_its_end(plant: Plant, tmp_path: Path) -> None:
    """Like any other; it is in no catalogue, for it has no manifest."""
    backup_id = await adopt(plant, await posted(plant, tmp_path))
    await send(plant)
    async with plant.database.session() as session:
        listed = [entry.backup_id for entry in await session.catalogues.live(plant.telegram.bot_id)]
    assert backup_id not in listed

    await Keeping(plant.database, "tester").delete(backup_id)
    await remover(plant)()
    await Expiry(plant.database)()

    assert there(plant) == [2, 3, 4, 5, 6]
    assert {row["id"]: row["status"] for row in await backups(plant)}[backup_id] == "deleted"


async def test_a_document_that_is_not_had_is_not_adopted(plant: Plant, tmp_path: Path) -> None:
    """A file id of nobody's, and a chat that the bot is not in: nothing could be deleted there."""
    message = await posted(plant, tmp_path)

    with pytest.raises((PermanentError, TemporaryError)):
        await adopt(plant, Message(message.chat_id, message.message_id, "BQACAgQnothing"))
    with pytest.raises(PermanentError, match="Chat not found"):
        await adopt(plant, Message(-100999, message.message_id, message.file_id))

    assert await backups(plant) == []


# Ended


async def test_two_who_delete_do_not_take_the_last(plant: Plant) -> None:
    """Whoever comes second for the older one is told; the newest stays."""
    await send(plant)
    await plant.owner.execute("UPDATE control_plane.backups SET created_at = created_at - interval '1 h'")
    await send(plant)
    ids = [row["id"] for row in await backups(plant)]
    keeping = Keeping(plant.database, "tester")

    results = await asyncio.gather(
        *(keeping.delete(backup_id) for backup_id in ids * 3), return_exceptions=True
    )

    assert sorted(one.code for one in results if isinstance(one, PermanentError)) == [
        *["backup_newest"] * 3,
        *["backup_not_stored"] * 2,
    ]
    assert [row["status"] for row in await backups(plant)] == ["expiring", "stored"]
    with pytest.raises(PermanentError, match="no backup"):
        await keeping.delete(uuid4())
