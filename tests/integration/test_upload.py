"""The upload of a dump: from the spool into the stand-in's chat, recorded in a real control plane."""

import asyncio
import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import pyrage
import pytest
from prometheus_client import REGISTRY

from sandbox.stack import Stack
from services.uploader import naming
from services.uploader.sender import Sender
from services.uploader.upload import Upload
from shared.contracts.errors import DumpLost, LeaseLost, TemporaryError, Unavailable
from shared.contracts.job import Stage, Status
from shared.contracts.manifest import DumpRecord, Facts
from shared.contracts.messages import BackupFailed, BackupStored
from shared.contracts.topology import DEAD, EVENTS
from shared.runtime.signing import MANIFEST, NotAuthentic, Signer
from shared.runtime.worker import Progress, hold
from shared.storage.parts import Kind
from shared.storage.spool import (
    DUMP_FILE,
    MANIFEST_FILE,
    STAGING_SUFFIX,
    Prefix,
    Spool,
    part_name,
)
from tests.conftest import BOT_TOKEN
from tests.integration.jobs_in import HASH, find, outbox_refuses
from tests.integration.upload_plant import (
    FACTS,
    IDENTITY,
    SIZES,
    Plant,
    attempts_of,
    cancelled,
    running,
    terminated,
    unrecorded,
    working,
)
from tests.waiting import eventually

BOT_ID = 7000001
OPTIONS = {"caption": "Before the upgrade", "storage_path": "a/b", "expires_in_days": 7}

#: The client silences the library when it is opened; pytest undoes that after each test.
QUIET = pytest.mark.filterwarnings("ignore:.*retry_after.*:telegram.warnings.PTBDeprecationWarning")

_FAIL_ONCE = """
    CREATE SEQUENCE public.tries;
    CREATE FUNCTION public.fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF nextval('public.tries') = 1 THEN RAISE 'not this time'; END IF; RETURN NEW; END
    $$;
    CREATE TRIGGER fail_once BEFORE INSERT ON control_plane.backups
        FOR EACH ROW EXECUTE FUNCTION public.fail_once();
"""
_FAIL_NO_MORE = "DROP FUNCTION public.fail_once CASCADE; DROP SEQUENCE public.tries"


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here."""
    return home


@pytest.fixture
async def failing_once(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """The first transaction that records a backup fails."""
    await connection.execute(_FAIL_ONCE)
    yield
    await connection.execute(_FAIL_NO_MORE)


def counted(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"pgferry_{metric}_total", labels) or 0.0


async def completed(plant: Plant, job_id: UUID) -> bool:
    return (await find(plant.database, job_id)).status is Status.COMPLETED


# The whole way


async def test_a_dump_becomes_a_backup(plant: Plant) -> None:
    """Parts in order, then the manifest; then one transaction records it, and the spool is free."""
    claim = await plant.claimed(OPTIONS)
    dump = plant.prefix(claim).read_dump()

    progress = await plant.run(claim)

    messages = plant.messages
    assert plant.names == ["p00000", "p00001", "p00002", "manifest"]
    assert [(part.size_bytes, part.sha256) for part in dump.parts] == [
        (message.file_size, message.sha256) for message in messages[:3]
    ]
    assert [
        (row["kind"], row["index"], row["status"], row["send_attempts"], row["bot_id"], row["chat_id"])
        for row in await plant.rows(claim)
    ] == [
        ("part", 0, "sent", 1, BOT_ID, plant.chat_id),
        ("part", 1, "sent", 1, BOT_ID, plant.chat_id),
        ("part", 2, "sent", 1, BOT_ID, plant.chat_id),
        ("manifest", 0, "sent", 1, BOT_ID, plant.chat_id),
    ]
    assert [(row["message_id"], row["file_id"], row["sha256"]) for row in await plant.rows(claim)] == [
        (message.message_id, message.file_id, message.sha256) for message in messages
    ]
    assert progress.counts == {"parts": 3, "parts_sent": 3}
    assert not (plant.spool.root / str(claim.job_id)).exists()


async def test_the_backup_and_the_jobs_end_are_recorded(plant: Plant) -> None:
    """And announced, with the same numbers."""
    claim = await plant.claimed(OPTIONS)
    dump = plant.prefix(claim).read_dump()
    await plant.run(claim)

    job = await find(plant.database, claim.job_id)
    backup = await plant.backup(claim)
    manifest = plant.messages[-1]
    assert (job.status, job.stage, job.backup_id) == (Status.COMPLETED, Stage.STORED, backup["id"])
    assert (backup["size_bytes"], backup["sha256"]) == (dump.stored.size_bytes, dump.stored.sha256)
    assert (backup["part_count"], backup["table_count"], backup["row_count"]) == (3, dump.tables, dump.rows)
    assert (backup["manifest_message_id"], backup["manifest_file_id"]) == (
        manifest.message_id,
        manifest.file_id,
    )
    assert backup["manifest_sha256"] == manifest.sha256
    assert (backup["caption"], backup["storage_path"], backup["encryption"]) == (
        "Before the upgrade",
        "a/b",
        "age",
    )
    assert backup["expires_at"] - backup["created_at"] == timedelta(days=7)
    [event] = await plant.outbox()
    assert (event["exchange"], event["message_type"]) == (EVENTS, BackupStored.type)
    assert event["correlation_id"] == claim.job_id
    assert BackupStored.model_validate_json(event["body"]) == BackupStored(
        backup_id=backup["id"],
        job_id=claim.job_id,
        project_id="acme",
        size_bytes=sum(SIZES),
        sha256=dump.stored.sha256,
        parts=3,
        tables=dump.tables,
        rows=dump.rows,
        stored_at=backup["created_at"],
    )


async def test_the_manifest_in_the_chat_is_enough_to_restore(plant: Plant, tmp_path: Path) -> None:
    """It verifies with the key, and names the message of each part."""
    claim = await plant.claimed()
    dump = plant.prefix(claim).read_dump()
    await plant.run(claim)

    manifest = await plant.manifest(tmp_path)
    contents = [await plant.document(message, tmp_path) for message in plant.messages[:-1]]

    assert manifest.dump == DumpRecord.model_validate(dump.model_dump())
    assert manifest.bot_id == BOT_ID
    assert manifest.filename == naming.whole_name(claim, dump)
    assert [(part.chat_id, part.message_id, part.file_id, part.sha256) for part in manifest.parts] == [
        (plant.chat_id, message.message_id, message.file_id, message.sha256)
        for message in plant.messages[:-1]
    ]
    assert hashlib.sha256(b"".join(contents)).hexdigest() == manifest.dump.stored.sha256


async def test_a_manifest_is_believed_only_with_our_key(plant: Plant, tmp_path: Path) -> None:
    """Neither of another key nor altered in a single member."""
    await plant.run(await plant.claimed())
    document = json.loads(await plant.document(plant.messages[-1], tmp_path))

    with pytest.raises(NotAuthentic):
        Signer.of(["another key, long enough to be one as well"], purpose=MANIFEST).verify(document)
    document["parts"][0]["message_id"] += 1
    with pytest.raises(NotAuthentic):
        plant.upload.signer.verify(document)


async def test_the_manifests_clear_part_tells_no_names(plant: Plant, tmp_path: Path) -> None:
    """Tables and warnings are for the owner of the age key."""
    await plant.run(await plant.claimed())
    content = await plant.document(plant.messages[-1], tmp_path)

    assert b"secret" not in content
    encrypted = base64.b64decode(json.loads(content)["dump"]["facts"])
    assert Facts.model_validate_json(pyrage.decrypt(encrypted, [IDENTITY])) == FACTS


async def test_the_longest_names_and_captions_pass(plant: Plant) -> None:
    """The chat keeps each document's name as it is, no two are the same, and takes every caption."""
    longest = {
        "filename": "F" * 48,
        "caption": "\N{ROCKET}" * 512,
        "storage_path": "\N{GREEK SMALL LETTER PI}" * 200,
    }
    for _ in range(2):
        await plant.run(await plant.claimed(longest))

    names = [message.file_name for message in plant.messages]
    assert len(set(names)) == len(names) == 8
    assert all(name.startswith("F" * 48) for name in names)
    assert plant.names == ["p00000", "p00001", "p00002", "manifest"] * 2
    captions = [message.caption for message in plant.messages]
    assert len(set(captions)) == 8
    assert all(caption.startswith("\N{ROCKET}" * 512) and len(caption) <= 1024 for caption in captions)


async def test_parts_are_spread_over_the_chats_in_turn(
    plant: Plant, unused_chats: Iterator[int], tmp_path: Path
) -> None:
    """The manifest goes to the first; it says where each part is."""
    chats = [plant.chat_id, next(unused_chats)]
    sender = Sender(plant.database, plant.telegram, chats, plant.upload.sender.lane)
    claim = await plant.claimed(sizes=(500, 400, 300, 200))

    await Upload(plant.database, plant.spool, sender, plant.upload.signer)(claim, Progress())

    assert plant.names == ["p00000", "p00002", "manifest"]
    assert len(plant.api.messages(chats[1])) == 2
    assert [part.chat_id for part in (await plant.manifest(tmp_path)).parts] == chats * 2


# Waiting


@QUIET
async def test_a_flood_is_waited_out_under_the_lease(plant: Plant) -> None:
    """As long as asked for, counted, without an attempt, while the heartbeat keeps the job."""
    await plant.dumped()
    claim = await plant.claim(lease_seconds=2.5)
    waits, seconds = counted("telegram_flood_waits"), counted("telegram_flood_wait_seconds")
    plant.api.flood("sendDocument", times=3, retry_after=1)
    attempts = replace(attempts_of(plant.database), lease_seconds=claim.lease_seconds)
    before = time.monotonic()

    await hold(claim, plant.upload, attempts, heartbeat_seconds=0.4)

    assert time.monotonic() - before >= 3
    assert counted("telegram_flood_waits") - waits == 3
    assert counted("telegram_flood_wait_seconds") - seconds == 3
    job = await find(plant.database, claim.job_id)
    assert (job.status, job.upload_attempts) == (Status.COMPLETED, 1)
    assert [row["send_attempts"] for row in await plant.rows(claim)] == [4, 1, 1, 1]
    assert plant.names == ["p00000", "p00001", "p00002", "manifest"]


async def test_what_was_sent_is_counted(plant: Plant) -> None:
    """Documents by their kind, and their bytes."""
    kinds = [counted("telegram_documents", kind=kind) for kind in Kind]
    sent_bytes = counted("telegram_sent_bytes")
    await plant.run(await plant.claimed())

    assert [counted("telegram_documents", kind=kind) for kind in Kind] == [kinds[0] + 3, kinds[1] + 1]
    assert counted("telegram_sent_bytes") - sent_bytes == sum(message.file_size for message in plant.messages)


# Crashes


async def test_a_part_whose_answer_was_not_recorded_is_sent_again(plant: Plant, tmp_path: Path) -> None:
    """The manifest names the message that was recorded; the other is waste, not damage."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=1) as upload, unrecorded(plant, claim):
        await cancelled(upload)
    assert [row["status"] for row in await plant.rows(claim)] == ["sent", "sending", "planned"]
    assert plant.names == ["p00000", "p00001"]

    await plant.run(await plant.claim_after(claim))

    assert plant.names == ["p00000", "p00001", "p00001", "p00002", "manifest"]
    assert [part.message_id for part in (await plant.manifest(tmp_path)).parts] == [1, 3, 4]
    assert [row["send_attempts"] for row in await plant.rows(claim)] == [1, 2, 1, 1]
    assert (await find(plant.database, claim.job_id)).status is Status.COMPLETED


async def test_a_manifest_that_was_sent_is_the_one_that_is_recorded(
    plant: Plant, failing_once: None, tmp_path: Path
) -> None:
    """The final transaction failed; the next attempt makes no second manifest, and no second id."""
    claim = await plant.claimed()
    with pytest.raises(asyncpg.RaiseError):
        await plant.run(claim)
    assert (await find(plant.database, claim.job_id)).status is Status.RUNNING
    assert await plant.outbox() == []

    await plant.run(await plant.claim_after(claim))

    assert plant.names == ["p00000", "p00001", "p00002", "manifest"]
    backup = await plant.backup(claim)
    assert (backup["id"], backup["manifest_message_id"]) == ((await plant.manifest(tmp_path)).backup_id, 4)
    assert backup["manifest_sha256"] == plant.messages[-1].sha256


async def test_a_backup_is_not_recorded_without_its_message(plant: Plant) -> None:
    """If the outbox cannot keep `backup.stored`, there is no backup yet; the next attempt records it."""
    claim = await plant.claimed()

    async with outbox_refuses(plant.owner, "backup.stored.v1"):
        with pytest.raises(asyncpg.CheckViolationError):
            await plant.run(claim)
    assert (await find(plant.database, claim.job_id)).status is Status.RUNNING
    backups = "SELECT count(*) FROM control_plane.backups WHERE job_id = $1"
    assert await plant.owner.fetchval(backups, claim.job_id) == 0

    await plant.run(await plant.claim_after(claim))
    assert await plant.owner.fetchval(backups, claim.job_id) == len(await plant.outbox()) == 1


async def test_a_manifest_that_was_sent_and_is_gone_from_the_spool_is_not_made_again(
    plant: Plant, failing_once: None
) -> None:
    """Another one would have another id and hash than the document in the chat: the dump begins anew."""
    claim = await plant.claimed()
    with pytest.raises(asyncpg.RaiseError):
        await plant.run(claim)
    plant.prefix(claim).manifest_path.unlink()

    with pytest.raises(DumpLost) as lost:
        await plant.run(await plant.claim_after(claim))

    assert lost.value.code == "spool_manifest_lost"
    assert await plant.outbox() == []


async def test_parts_of_another_bot_are_not_continued(plant: Plant) -> None:
    """A bot can fetch only what it sent itself, and a manifest names one bot."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=1) as upload:
        await cancelled(upload)
    await plant.owner.execute("UPDATE control_plane.backup_parts SET bot_id = 1 WHERE status = 'sent'")

    with pytest.raises(DumpLost) as lost:
        await plant.run(await plant.claim_after(claim))

    assert lost.value.code == "bot_changed"
    assert plant.names == ["p00000"]


async def test_a_manifest_whose_answer_was_not_recorded_is_sent_again(plant: Plant) -> None:
    """The same document, and the later message is the one that the backup names."""
    claim = await plant.claimed(sizes=(500,))
    async with running(plant, claim, hold_after=1) as upload, unrecorded(plant, claim):
        await cancelled(upload)

    await plant.run(await plant.claim_after(claim))

    assert plant.names == ["p00000", "manifest", "manifest"]
    assert plant.messages[1].sha256 == plant.messages[2].sha256
    assert (await plant.backup(claim))["manifest_message_id"] == 3


async def test_a_manifest_that_was_half_written_is_written_again(plant: Plant, tmp_path: Path) -> None:
    """An uploader was killed while it wrote it into the spool."""
    claim = await plant.claimed()
    unfinished = plant.prefix(claim).path / (MANIFEST_FILE + STAGING_SUFFIX)
    unfinished.write_bytes(b'{"kind": "pgf')

    await plant.run(claim)

    assert (await plant.manifest(tmp_path)).dump.job_id == claim.job_id


async def test_a_lost_connection_costs_only_the_part_that_was_under_way(plant: Plant) -> None:
    """The next attempt goes on where this one ended."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=1) as upload:
        plant.api.kill()
        try:
            with pytest.raises(TemporaryError):
                await upload
        finally:
            plant.api.start()

    await plant.run(await plant.claim_after(claim))

    assert plant.names == ["p00000", "p00001", "p00002", "manifest"]
    assert [row["send_attempts"] for row in await plant.rows(claim)] == [1, 2, 1, 1]


async def test_an_answer_is_recorded_when_the_database_is_back(plant: Plant) -> None:
    """PostgreSQL ends the connection that was about to record it: it is not sent twice."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=1) as upload:
        async with unrecorded(plant, claim) as pid:
            await terminated(plant.owner, pid)
        await upload

    assert plant.names == ["p00000", "p00001", "p00002", "manifest"]
    assert [row["send_attempts"] for row in await plant.rows(claim)] == [1, 1, 1, 1]


# Leases


async def test_a_worker_with_an_old_fence_makes_no_call(plant: Plant) -> None:
    """Neither to the chat nor to the database."""
    late = await plant.claimed()
    await plant.claim_after(late)
    calls = plant.api.calls()

    with pytest.raises(LeaseLost):
        await plant.run(late)

    assert plant.api.calls() == calls
    assert plant.messages == []
    assert await plant.rows(late) == []


async def test_a_worker_that_lost_its_lease_in_a_call_makes_no_further_one(
    plant: Plant, tmp_path: Path
) -> None:
    """What it sent is not recorded; its successor sends that part again and finishes."""
    late = await plant.claimed()
    async with running(plant, late, hold_after=1) as upload:
        successor = await plant.claim_after(late)
        plant.api.release()
        with pytest.raises(LeaseLost):
            await upload
    assert plant.names == ["p00000", "p00001"]
    assert plant.prefix(late).path.exists()

    await plant.run(successor)

    assert plant.names == ["p00000", "p00001", "p00001", "p00002", "manifest"]
    assert [part.message_id for part in (await plant.manifest(tmp_path)).parts] == [1, 3, 4]


async def test_a_worker_that_comes_late_to_the_end_records_nothing(plant: Plant, failing_once: None) -> None:
    """All is sent, but the job is somebody else's: the final transaction is fenced."""
    late = await plant.claimed()
    with pytest.raises(asyncpg.RaiseError):
        await plant.run(late)
    successor = await plant.claim_after(late)

    with pytest.raises(LeaseLost):
        await plant.run(late)

    assert (await find(plant.database, late.job_id)).status is Status.RUNNING
    assert await plant.outbox() == []
    await plant.run(successor)
    assert len(await plant.outbox()) == 1


async def test_a_cancelled_job_makes_no_further_call(plant: Plant) -> None:
    """Cancellation is seen before each part."""
    claim = await plant.claimed()
    async with running(plant, claim, hold_after=1) as upload:
        await plant.owner.execute(
            "UPDATE control_plane.jobs SET cancel_requested_at = now() WHERE id = $1", claim.job_id
        )
        plant.api.release()
        with pytest.raises(LeaseLost):
            await upload

    assert plant.names == ["p00000", "p00001"]


# The spool


def _missing(prefix: Prefix) -> None:
    (prefix.path / part_name(1)).unlink()


def _altered(prefix: Prefix) -> None:
    path = prefix.path / part_name(1)
    path.write_bytes(bytes(path.stat().st_size))


def _cut(prefix: Prefix) -> None:
    path = prefix.path / part_name(1)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [_missing, _altered, _cut])
async def test_a_part_that_is_not_as_it_was_written_is_not_sent(
    plant: Plant, damage: Callable[[Prefix], None]
) -> None:
    """The dump must be made again; the parts before it were good."""
    claim = await plant.claimed()
    damage(plant.prefix(claim))

    with pytest.raises(DumpLost) as lost:
        await plant.run(claim)

    assert lost.value.code == "spool_part_damaged"
    assert plant.names == ["p00000"]
    assert [row["status"] for row in await plant.rows(claim)] == ["sent", "planned", "planned"]


async def test_a_spool_that_is_gone_has_lost_nothing_yet(plant: Plant, tmp_path: Path) -> None:
    """As after an unmount: the dump is not made again, the job waits for the spool."""
    claim = await plant.claimed()
    elsewhere = plant.spool.root.rename(tmp_path / "elsewhere")
    plant.spool.root.mkdir()

    with pytest.raises(Unavailable) as waits:
        await plant.run(claim)

    plant.spool.root.rmdir()
    elsewhere.rename(plant.spool.root)
    assert waits.value.name == "spool"


@pytest.mark.parametrize("name", [DUMP_FILE, part_name(1)])
async def test_a_spool_that_does_not_answer_is_waited_for(
    plant: Plant, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease would be kept for ever; as it is, the attempt ends, and costs nothing."""
    monkeypatch.setattr("shared.runtime.spool_calls.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("services.uploader.upload.PART_SECONDS", 1.0)
    claim = await plant.claimed()
    path = plant.prefix(claim).path / name
    path.unlink()
    os.mkfifo(path)  # who opens it waits for a writer

    async with asyncio.timeout(60):
        with pytest.raises(Unavailable) as waits:
            await plant.run(claim)

    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    assert waits.value.name == "spool"


async def test_a_spool_that_hangs_at_the_end_does_not_hold_up_the_backup(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded; the files are left to the sweeper."""
    monkeypatch.setattr("shared.runtime.spool_calls.FROZEN_SECONDS", 0.1)
    thaws = threading.Event()
    monkeypatch.setattr(Spool, "remove_job", lambda _spool, _job_id: thaws.wait())
    claim = await plant.claimed()

    async with asyncio.timeout(60):
        await plant.run(claim)
    thaws.set()


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(b'{"job_id": ')], ids=["gone", "cut"]
)
async def test_a_dump_without_its_description_is_lost(plant: Plant, damage: Callable[[Path], object]) -> None:
    """Nothing is sent of it."""
    claim = await plant.claimed()
    damage(plant.prefix(claim).path / DUMP_FILE)

    with pytest.raises(DumpLost) as lost:
        await plant.run(claim)

    assert lost.value.code == "spool_dump_missing"
    assert plant.messages == []


async def test_a_manifest_that_was_altered_in_the_spool_is_not_sent(plant: Plant) -> None:
    """Whoever can write there cannot sign."""
    claim = await plant.claimed(sizes=(500,))
    async with running(plant, claim, hold_after=1) as upload:
        await cancelled(upload)
    path = plant.prefix(claim).manifest_path
    path.write_bytes(path.read_bytes().replace(b'"size_bytes": 500', b'"size_bytes": 501'))

    with pytest.raises(DumpLost) as lost:
        await plant.run(await plant.claim_after(claim))

    assert lost.value.code == "spool_manifest_damaged"
    assert plant.names == ["p00000"]


@pytest.mark.parametrize("kind", ["part", "manifest"])
async def test_a_set_of_which_something_was_given_up_is_not_continued(plant: Plant, kind: str) -> None:
    """Its messages are deleted, or about to be: no manifest may name them, and no backup such a manifest."""
    claim = await plant.claimed()
    await plant.owner.execute(
        "INSERT INTO control_plane.backup_parts"
        " (job_id, dump_fence, kind, index, status, size_bytes, sha256, message_id, file_id)"
        " VALUES ($1, $2, $4, 0, 'superseded', 1, $3, 7, 'file')",
        claim.job_id,
        claim.dump_fence,
        HASH,
        kind,
    )

    with pytest.raises(DumpLost, match="given up"):
        await plant.run(claim)

    assert not any("manifest" in message.file_name for message in plant.messages)
    recorded = "SELECT count(*) FROM control_plane.backups WHERE job_id = $1"
    assert await plant.owner.fetchval(recorded, claim.job_id) == 0


async def test_a_job_whose_dump_is_lost_begins_again_at_the_dump(plant: Plant) -> None:
    """An exporter may have it; the attempt at the upload is spent."""
    dump = await plant.dumped()
    _missing(plant.spool.prefix(dump.job_id, dump.dump_fence))

    async with working(plant):
        job = await plant.settled(dump.job_id)

    assert (job.status, job.stage, job.upload_attempts) == (Status.RUNNING, Stage.QUEUED, 1)
    assert job.error_code == "spool_part_damaged"


# Telegram's refusals, as a worker settles them


async def test_a_chat_that_does_not_exist_fails_the_job(plant: Plant) -> None:
    """At once, with event and dead letter; the token is in neither."""
    dump = await plant.dumped()
    sender = Sender(plant.database, plant.telegram, [-5], plant.upload.sender.lane)
    nowhere = replace(plant, upload=replace(plant.upload, sender=sender))

    async with working(nowhere):
        job = await plant.settled(dump.job_id)

    assert (job.status, job.error_code, job.upload_attempts) == (Status.FAILED, "telegram_bad_request", 1)
    outbox = await plant.outbox()
    assert [row["exchange"] for row in outbox] == [EVENTS, DEAD]
    assert BackupFailed.model_validate_json(outbox[0]["body"]).code == "telegram_bad_request"
    assert BOT_TOKEN.partition(":")[2] not in str(outbox) + str(job)


async def test_a_job_waits_at_no_cost_while_telegram_is_not_reached(plant: Plant) -> None:
    """It is handed back, and goes on by itself."""
    dump = await plant.dumped()
    plant.api.stop()
    async with working(plant):
        try:
            await eventually(partial(_handed_back, plant, dump.job_id))
        finally:
            plant.api.start()
        await eventually(partial(completed, plant, dump.job_id))

    job = await find(plant.database, dump.job_id)
    assert (job.upload_attempts, job.error_code) == (1, None)
    assert plant.names == ["p00000", "p00001", "p00002", "manifest"]


async def _handed_back(plant: Plant, job_id: UUID) -> bool:
    job = await find(plant.database, job_id)
    handed_back = (Stage.DUMPED, 0, "telegram_unavailable")
    return (job.stage, job.upload_attempts, job.error_code) == handed_back


# The process


async def test_no_log_shows_the_token(plant: Plant, stack: Stack) -> None:
    """At the level that says most, with a flood on the way."""
    dump = await plant.dumped()
    plant.api.flood("sendDocument", times=1, retry_after=1)

    uploader = stack.start("uploader", PGFERRY_LOG_LEVEL="DEBUG")
    await eventually(partial(completed, plant, dump.job_id), seconds=30)
    uploader.child.end()

    log = uploader.child.log.read_text()
    assert "Telegram asks to wait" in log
    assert "attempt done" in log
    assert BOT_TOKEN.partition(":")[2] not in log


async def test_an_uploader_whose_token_is_unknown_ends(plant: Plant, stack: Stack) -> None:
    """With a sentence that names the setting and not its value."""
    unknown = "7000002:AAE-revoked-token-of-nobody-0123456789ab"

    uploader = stack.start("uploader", PGFERRY_LOG_LEVEL="DEBUG", TELEGRAM_BOT_TOKEN=unknown)

    assert await asyncio.to_thread(uploader.child.process.wait, 30) == 1
    log = uploader.child.log.read_text()
    assert "TELEGRAM_BOT_TOKEN: " in log
    assert unknown.partition(":")[2] not in log
    assert "Traceback" not in log
