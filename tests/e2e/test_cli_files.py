"""Files of an operator's own: sent, listed, fetched, changed and ended by commands, as the role for it."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from sandbox.bot_api.process import BotApi
from sandbox.bot_api.store import StoredMessage
from sandbox.stack import Stack
from shared.telegram.client import open_telegram
from tests.conftest import BOT_TOKEN
from tests.e2e import steps
from tests.e2e.commands import Said, ended, pgferry, started

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
async def acme(connection: asyncpg.Connection) -> None:
    """The one project that is known."""
    await connection.execute("INSERT INTO control_plane.projects (id, slug) VALUES ('acme', 'acme')")


@pytest.fixture(autouse=True)
async def as_planned(bot_api: BotApi) -> AsyncIterator[None]:
    """What a test plans for the stand-in is over with it."""
    yield
    bot_api.reset()


def environment(stack: Stack) -> dict[str, str]:
    return stack.environment("cli") | {"DATABASE_URL": stack.url_as("operator")}


async def run(stack: Stack, *arguments: object, **settings: str) -> Said:
    return await pgferry("backups", *map(str, arguments), **environment(stack) | settings)


async def sent(stack: Stack, *arguments: object) -> str:
    """Send one file; returns the backup's id."""
    said = await run(stack, "send", *arguments, "--project", "acme", "--json")
    assert said.code == 0, said.err
    [item] = said.json()
    return str(item["backup_id"])


def written(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def there(stack: Stack, bot_api: BotApi) -> list[StoredMessage]:
    return [message for message in bot_api.messages(stack.chat_id) if not message.deleted]


def typed(commands: str) -> str:
    """What an operator's shell says to it."""
    return subprocess.run(["bash", "-c", commands], check=True, capture_output=True, text=True).stdout


async def test_a_file_is_sent_and_comes_back(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Under its own name, with its caption; what was printed puts it together again."""
    path = written(tmp_path, "app log.gz", 5000)

    said = await run(
        stack, "send", path, *("--project", "acme", "--type", "logs", "--caption", "week 48", "--expires", 90)
    )

    stored, backup_id, name, size, parts = said.out.strip().split("  ")
    short = backup_id.replace("-", "")[:8]
    assert (said.code, said.err, stored, size, parts) == (0, "", "stored", "4.9 KiB", "1 part")
    assert name == f"app_log-{short}.gz"
    assert [message.file_name for message in there(stack, bot_api)] == [name, f"{name}.manifest"]
    assert all(
        (message.caption or "").startswith("week 48\nacme · logs") for message in there(stack, bot_api)
    )
    row = await connection.fetchrow("SELECT * FROM control_plane.backups")
    assert row is not None
    assert (row["project_id"], row["type"], row["caption"], row["status"]) == (
        "acme",
        "logs",
        "week 48",
        "stored",
    )
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (row["expires_at"] - row["created_at"]).days == 90
    turns = await connection.fetch("SELECT chat_id, state FROM control_plane.lane_entries")
    assert [tuple(turn) for turn in turns] == [(stack.chat_id, "ended")] * 2
    fetched = await run(stack, "fetch", backup_id, "--to", tmp_path / "back")
    assert fetched.code == 0, fetched.err
    typed(fetched.out)
    assert (tmp_path / "back" / name).read_bytes() == path.read_bytes()


async def test_a_large_file_is_cut_into_parts(stack: Stack, bot_api: BotApi, tmp_path: Path) -> None:
    """None larger than what a bot gets back, and no two of a size."""
    path = written(tmp_path, "disk.img", 40 * MIB)

    backup_id = await sent(stack, path)

    sizes = [message.file_size for message in there(stack, bot_api)]
    assert sizes[:2] == [19 * MIB, 19 * MIB - 4096]
    assert sum(sizes[:3]) == 40 * MIB
    fetched = await run(stack, "fetch", backup_id, "--to", tmp_path / "back")
    typed(fetched.out)
    [whole] = (tmp_path / "back").glob("disk-*.img")
    assert hashlib.sha256(whole.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


async def test_a_batch_tells_of_each_file(stack: Stack, bot_api: BotApi, tmp_path: Path) -> None:
    """In order; what fails keeps the others from nothing, and the exit code says that it was some."""
    good, empty, last = (written(tmp_path, name, size) for name, size in (("a", 10), ("b", 0), ("c", 20)))
    missing = tmp_path / "nowhere"

    said = await run(stack, "send", good, empty, missing, last, "--project", "acme", "--json")
    none = await run(stack, "send", empty, missing, "--project", "acme")

    assert said.code == 3
    assert said.sentence == "not sent: 2 files of 4"
    assert [(item["file"], item["outcome"]) for item in said.json()] == [
        ("a", "stored"),
        ("b", "failed"),
        ("nowhere", "failed"),
        ("c", "stored"),
    ]
    assert [item["error"]["code"] for item in said.json() if "error" in item] == [
        "file_empty",
        "file_missing",
    ]
    assert none.code == 1
    assert f"{missing} is not there" in none.out
    assert [line.split()[:2] for line in none.out.splitlines()] == [["failed", "b"], ["failed", "nowhere"]]
    assert len(there(stack, bot_api)) == 4


async def test_what_is_not_recorded_is_only_sent(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Its ids are printed, and no row names it."""
    path = written(tmp_path, "note.txt", 10)

    said = await run(stack, "send", path, "--project", "acme", "--no-record")

    [message] = there(stack, bot_api)
    assert said.code == 0
    assert said.out.split()[-2:] == [f"{stack.chat_id}/{message.message_id}", message.file_id]
    for table in ("backups", "backup_parts"):
        assert await connection.fetchval(f"SELECT count(*) FROM control_plane.{table}") == 0


async def test_a_message_is_adopted(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Fetched once for size and hash, and from then on listed and fetched; but only once."""
    path = written(tmp_path, "old.sql", 3000)
    async with open_telegram(BOT_TOKEN, bot_api.url) as telegram:
        await telegram.introduce()
        document = await telegram.send(path, chat_id=stack.chat_id, filename="old.sql", caption=None)
    message = ("--chat-id", stack.chat_id, "--message-id", document.message_id, "--file-id", document.file_id)

    said = await run(stack, "record", "--project", "acme", *message, "--filename", "old.sql", "--json")
    again = await run(stack, "record", "--project", "acme", *message)

    assert said.code == 0, said.err
    backup = said.json()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (backup["adopted"], backup["size_bytes"], backup["sha256"]) == (True, 3000, digest)
    assert again.code == 1
    assert "is a recorded backup's, or was removed" in again.sentence
    fetched = await run(stack, "fetch", backup["id"], "--to", tmp_path / "back")
    assert (await run(stack, "fetch", backup["id"], "--to", tmp_path / "back")).code == 0
    typed(fetched.out)
    assert (tmp_path / "back" / "old.sql").read_bytes() == path.read_bytes()
    assert not (tmp_path / "back" / "manifest.json").exists()


async def test_an_adopted_message_and_a_file_are_not_fetched_over_one_another(
    stack: Stack, bot_api: BotApi, tmp_path: Path
) -> None:
    """Both have a first part; what was brought is not touched."""
    file = await sent(stack, written(tmp_path, "note.txt", 100))
    async with open_telegram(BOT_TOKEN, bot_api.url) as telegram:
        await telegram.introduce()
        path = written(tmp_path, "old.sql", 100)
        document = await telegram.send(path, chat_id=stack.chat_id, filename="old.sql", caption=None)
    message = ("--chat-id", stack.chat_id, "--message-id", document.message_id, "--file-id", document.file_id)
    adopted = (await run(stack, "record", "--project", "acme", *message, "--json")).json()["id"]

    for first, second in ((file, adopted), (adopted, file)):
        folder = tmp_path / first
        assert (await run(stack, "fetch", first, "--to", folder)).code == 0
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        said = await run(stack, "fetch", second, "--to", folder)

        assert (said.code, said.sentence) == (1, f"{folder} holds another backup")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


async def test_the_newest_backup_is_deleted_only_by_a_word_of_its_own(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """An uploader takes the documents out of the chat; the audit log says who asked."""
    path = written(tmp_path, "a.log", 10)
    old = await sent(stack, path, "--type", "logs")
    await connection.execute("UPDATE control_plane.backups SET created_at = created_at - interval '1 h'")
    newest = await sent(stack, path, "--type", "logs")
    other_type = await sent(stack, path)
    stack.start("uploader", PGFERRY_RECONCILE_SECONDS="0.2")

    kept = await run(stack, "delete", newest)
    deleted = await run(stack, "delete", old)
    twice = await run(stack, "delete", old)
    unknown = await run(stack, "delete", uuid4())
    by_word = await run(stack, "delete", other_type, "--even-newest")

    assert (kept.code, deleted.code, twice.code, unknown.code, by_word.code) == (1, 0, 1, 1, 0)
    assert kept.sentence == (
        f"backup {newest} is the newest stored logs backup of project acme; "
        "--even-newest ends it all the same"
    )

    async def gone() -> bool:
        rows = await connection.fetch("SELECT id, status FROM control_plane.backups")
        return {str(row["id"]): row["status"] for row in rows} == {
            old: "deleted",
            newest: "stored",
            other_type: "deleted",
        }

    await steps.until(gone, "both are out of the chat")
    assert len(there(stack, bot_api)) == 2
    audit = await connection.fetch(
        "SELECT action, detail FROM control_plane.audit_log WHERE backup_id = $1 ORDER BY id",
        UUID(other_type),
    )
    assert [row["action"] for row in audit] == ["backup.send", "backup.discard", "backup.delete"]
    assert json.loads(audit[1]["detail"]) == {"even_newest": True}


async def test_what_is_recorded_is_changed_listed_and_counted(
    stack: Stack, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Update, list with its filters, stats."""
    path = written(tmp_path, "a.log", 10)
    log = await sent(stack, path, "--type", "logs", "--expires", 1)
    await connection.execute("UPDATE control_plane.backups SET created_at = '2026-01-02T12:00:00Z'")
    file = await sent(stack, path)

    changed = await run(stack, "update", log, "--caption", "kept for the audit", "--never-expires", "--json")
    nothing = await run(stack, "update", log)
    bad = await run(stack, "update", log, "--expires", 0)
    both = await run(stack, "update", log, "--expires", 1, "--never-expires")
    listed = [
        await run(stack, "list", *filters, "--json")
        for filters in (
            (),
            ("--type", "logs"),
            ("--status", "deleted"),
            ("--since", "20260103"),
            ("--since", "2026-01-02T13:00+02:00", "--before", "2026-01-02T14:01+02:00"),
            ("--before", "2026-01-03"),
            ("--since", "2026-01-02", "--before", "2026-01-02T12:00:00"),
        )
    ]
    stats = await run(stack, "stats", "--json")

    assert (changed.json()["caption"], changed.json()["expires_at"]) == ("kept for the audit", None)
    assert (nothing.code, bad.code, both.code) == (2, 2, 2)
    assert bad.sentence == "--expires: must be at least 1"
    assert both.sentence == "say only one of --expires and --never-expires"
    assert [[one["id"] for one in said.json()] for said in listed] == [
        [file, log],
        [log],
        [],
        [file],
        [log],
        [log],
        [],
    ]
    assert [(row["type"], row["backups"], row["size_bytes"]) for row in stats.json()] == [
        ("logs", 1, 10),
        ("storage", 1, 10),
    ]


async def sending_its_second_part(
    stack: Stack, bot_api: BotApi, directory: Path
) -> asyncio.subprocess.Process:
    """A command whose first part is in the chat; the call of the second is held by the stand-in."""
    path = written(directory, "disk.img", 20 * MIB)
    bot_api.hold_after("sendDocument", 1)
    sending = await started(*("backups", "send", str(path), "--project", "acme"), **environment(stack))

    async def held() -> bool:
        return bot_api.held("sendDocument") > 0

    await steps.until(held, "the second part is on its way")
    return sending


async def test_a_send_that_is_stopped_is_given_up_at_once(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Ctrl-C: what was sent is deleted by an uploader, and the call without an answer is suspected."""
    sending = await sending_its_second_part(stack, bot_api, tmp_path)
    sending.send_signal(signal.SIGINT)
    said = await ended(sending, environment(stack))
    bot_api.release()

    assert said.code == 130
    rows = await connection.fetch("SELECT status FROM control_plane.backup_parts")
    assert [row["status"] for row in rows] == ["superseded", "superseded"]
    assert await connection.fetchval("SELECT count(*) FROM control_plane.backups") == 0


async def test_what_a_killed_send_left_is_deleted_a_day_later(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Kill -9 between two parts: the rows say what is in the chat and what may be."""
    sending = await sending_its_second_part(stack, bot_api, tmp_path)
    sending.kill()
    await sending.wait()
    bot_api.release()
    holds_on = "SELECT max(lease_until) > now() + interval '1 min' FROM control_plane.lane_entries"
    assert await connection.fetchval(f"{holds_on} WHERE state = 'open'") is False
    statuses = "SELECT status FROM control_plane.backup_parts ORDER BY index"
    assert [row["status"] for row in await connection.fetch(statuses)] == ["sent", "sending"]
    stack.start("uploader", PGFERRY_RECONCILE_SECONDS="0.2").wait_ready()
    await connection.execute(
        "UPDATE control_plane.backup_parts SET planned_at = planned_at - interval '25 h',"
        " sending_at = sending_at - interval '25 h', sent_at = sent_at - interval '25 h'"
    )

    async def deleted() -> bool:
        return [row["status"] for row in await connection.fetch(statuses)] == ["deleted"] * 2

    await steps.until(deleted, "the uploader has deleted what was left")
    assert await connection.fetchval("SELECT index FROM control_plane.suspected_sends") == 1


async def test_expire_prints_what_it_marked(
    stack: Stack, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """And what it kept, with the reason; a dry run says the same and marks nothing."""
    path = written(tmp_path, "a.log", 10)
    old, newest = await sent(stack, path), await sent(stack, path)
    await connection.execute("UPDATE control_plane.backups SET expires_at = now() - interval '1 day'")

    dry = await run(stack, "expire", "--dry-run", "--json")
    marked = await run(stack, "expire", "--json")
    after = await run(stack, "expire", "--json")

    assert [(one["id"], one["goes"]) for one in dry.json()] == [(old, True), (newest, False)]
    assert [(one["id"], one["goes"]) for one in marked.json()] == [(old, True), (newest, False)]
    assert [(one["id"], one["goes"]) for one in after.json()] == [(newest, False)]


async def test_a_token_that_telegram_does_not_know_is_one_sentence(stack: Stack, tmp_path: Path) -> None:
    """Without the token."""
    path = written(tmp_path, "a.log", 10)

    said = await run(
        stack,
        "send",
        path,
        "--project",
        "acme",
        TELEGRAM_BOT_TOKEN="7000009:AAE-a-token-of-nobody-at-all-0123456789",
    )

    assert (said.code, said.out) == (1, "")
    assert said.sentence.startswith("TELEGRAM_BOT_TOKEN: ")


async def test_a_file_comes_back_when_the_control_plane_is_lost(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """The catalogue names its manifest like a dump's."""
    path = written(tmp_path, "a.log", 10)
    backup_id = await sent(stack, path)
    uploader = stack.start("uploader", PGFERRY_CATALOGUE_SECONDS="0.2", PGFERRY_RECONCILE_SECONDS="0.2")

    async def pinned() -> bool:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM control_plane.catalogues WHERE pinned_at IS NOT NULL"
            )
        )

    await steps.until(pinned, "the catalogue is pinned")
    assert uploader.stop() == 0
    parts = (
        "SELECT kind, index, status, sha256, message_id FROM control_plane.backup_parts ORDER BY kind, index"
    )
    backups = "SELECT to_jsonb(b) - 'revision' FROM control_plane.backups AS b"
    before = await connection.fetch(parts), await connection.fetch(backups)
    await connection.execute("TRUNCATE control_plane.backups, control_plane.backup_parts")

    rebuilt = await pgferry("catalogue", "rebuild", "--json", **stack.environment("cli"))

    assert [(one["backup_id"], one["outcome"]) for one in rebuilt.json()] == [(backup_id, "added")]
    assert (await connection.fetch(parts), await connection.fetch(backups)) == before


async def test_a_project_that_is_not_known_gets_nothing(
    stack: Stack, bot_api: BotApi, tmp_path: Path
) -> None:
    """A slip of the finger would be a backup that nobody finds."""
    path = written(tmp_path, "a.log", 10)

    said = await run(stack, "send", path, "--project", "amce")
    wrong = await run(stack, "send", path, "--project", "acme", "--filename", "a/b")
    two = await run(stack, "send", path, path, "--project", "acme", "--filename", "a")

    assert (said.code, wrong.code, two.code) == (1, 2, 2)
    assert said.sentence.startswith("No project 'amce'")
    assert wrong.sentence.startswith("--filename: ")
    assert there(stack, bot_api) == []


async def test_what_was_lost_in_a_chat_of_pgferrys_own_is_deleted_though_an_uploader_dies(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """The next one deletes the document whose answer was lost, and nothing else."""
    await sent(stack, written(tmp_path, "a.log", 10))
    bot_api.drop_after_storing("sendDocument", times=1)
    await sent(stack, written(tmp_path, "b.log", 10))
    for table, times in (
        ("backup_parts", ("sending_at", "sent_at")),
        ("suspected_sends", ("sending_at", "suspected_at")),
    ):
        earlier = ", ".join(f"{time} = {time} - interval '2 hours'" for time in times)
        await connection.execute(f"UPDATE control_plane.{table} SET {earlier}")
    exclusive = {
        "TELEGRAM_CHAT_EXCLUSIVE": "true",
        "PGFERRY_RECONCILE_SECONDS": "0.05",
        "PGFERRY_CATALOGUE_SECONDS": "0.2",
    }
    bot_api.hold_after("deleteMessages", 0)
    victim = stack.start("uploader", **exclusive)

    async def is_held() -> bool:
        return bot_api.held("deleteMessages") == 1

    await steps.until(is_held, "the deletion is on its way")
    victim.kill()
    bot_api.release()
    resolved = "SELECT found_message_id FROM control_plane.suspected_sends WHERE resolved_at IS NOT NULL"
    assert await connection.fetchval(resolved) is None
    stack.start("uploader", **exclusive)

    async def is_resolved() -> bool:
        return bool(await connection.fetchval(resolved) == 3)

    await steps.until(is_resolved, "the gap is closed")
    assert [message.message_id for message in there(stack, bot_api)] == [1, 2, 4, 5, 6]
