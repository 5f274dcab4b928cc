"""The control plane is lost: the chat alone brings the backups back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from sandbox.bot_api.process import BotApi
from sandbox.stack import Stack
from sandbox.tenants import create_demo_tenant
from shared.contracts.catalogue import Catalogue, CatalogueEntry
from shared.runtime.catalogue_document import decoded, encoded
from shared.runtime.signing import CATALOGUE, Signer
from shared.telegram.client import TelegramChatStore, open_telegram
from shared.telegram.pins import Pins
from tests.conftest import BOT_TOKEN
from tests.e2e import steps
from tests.e2e.commands import Said, pgferry

_BACKUPS = "SELECT to_jsonb(b) - 'revision' FROM control_plane.backups AS b ORDER BY id"
#: A rebuilt manifest's row lacks an id that only tells equal files.
_PARTS = """
    SELECT kind, index, status, size_bytes, sha256, bot_id, chat_id, message_id, file_id
      FROM control_plane.backup_parts ORDER BY kind, index
"""


@pytest.fixture
async def telegram(bot_api: BotApi) -> AsyncIterator[TelegramChatStore]:
    """The bot, as whoever else has its token."""
    async with open_telegram(BOT_TOKEN, bot_api.url) as telegram:
        await telegram.introduce()
        yield telegram


async def run(stack: Stack, *arguments: str, **settings: str) -> Said:
    environment = stack.environment("cli") | {"TELEGRAM_CHAT_ID": ""} | settings
    return await pgferry("catalogue", *arguments, **environment)


def signer_of(stack: Stack) -> Signer:
    return Signer.of([stack.keys.signing_key], purpose=CATALOGUE)


async def pin(stack: Stack, telegram: TelegramChatStore, content: bytes) -> str:
    """Post and pin this as a catalogue; returns its file id."""
    path = stack.directory / "posted"
    await asyncio.to_thread(path.write_bytes, content)
    sent = await telegram.send(path, chat_id=stack.chat_id, filename="pgferry-1.catalogue", caption=None)
    await Pins(telegram.bot).pin(stack.chat_id, sent.message_id)
    return sent.file_id


async def pinned(stack: Stack, telegram: TelegramChatStore) -> bytes | None:
    shown = await Pins(telegram.bot).newest(stack.chat_id)
    if shown is None or shown.file_id is None:
        return None
    target = stack.directory / "pinned"
    await telegram.fetch(shown.file_id, target)
    return await asyncio.to_thread(Path.read_bytes, target)


async def test_a_tenant_is_restored_from_the_chat_alone(
    stack: Stack, connection: asyncpg.Connection, telegram: TelegramChatStore, database_url: str
) -> None:
    """Control plane dropped, made anew, filled from the pin; then the backup is fetched and compared."""
    await create_demo_tenant(connection, slug="acme-corp", megabytes=1)
    await stack.add_project(connection, "acme", slug="acme-corp")
    services = [
        stack.start("gateway"),
        stack.start("exporter", PGFERRY_PART_SIZE_BYTES=65536),
        stack.start("uploader", PGFERRY_CATALOGUE_SECONDS=0.4),
    ]
    for service in services:
        service.wait_ready()
    job_id = steps.post_export(stack, "acme", caption="nightly ✓")
    backup_id = (await steps.ended(connection, job_id))["backup_id"]

    async def is_listed() -> bool:
        content = await pinned(stack, telegram)
        entries = decoded(content, signer_of(stack)).entries if content else ()
        return [entry.backup_id for entry in entries] == [backup_id]

    await steps.until(is_listed, "the backup is in the pinned catalogue")
    for service in services:
        assert service.stop() == 0
    before = await connection.fetch(_BACKUPS), await connection.fetch(_PARTS)
    shown = await run(stack, "show", "--chat", str(stack.chat_id), "--json")
    assert [entry["backup_id"] for entry in shown.json()["entries"]] == [str(backup_id)]

    await connection.execute("DROP SCHEMA control_plane CASCADE")
    assert (await pgferry("migrate", **stack.environment("cli"))).code == 0
    rebuilt = await run(stack, "rebuild", "--chat", str(stack.chat_id), "--json")
    again = await run(stack, "rebuild", "--chat", str(stack.chat_id), "--json")

    assert (rebuilt.code, [one["outcome"] for one in rebuilt.json()]) == (0, ["added"])
    assert (again.code, [one["outcome"] for one in again.json()]) == (0, ["known"])
    assert (await connection.fetch(_BACKUPS), await connection.fetch(_PARTS)) == before
    comparison = await steps.restored(stack, backup_id, schema="tenant_acme-corp", empty_url=database_url)
    assert comparison.differences == ()


async def test_what_our_key_did_not_sign_is_refused(
    stack: Stack, connection: asyncpg.Connection, telegram: TelegramChatStore
) -> None:
    """Altered, another key's, a person's pin, no pin: one sentence each, and nothing is recorded."""
    chat = ("--chat", str(stack.chat_id))
    assert "has no document pinned" in (await run(stack, "rebuild", *chat)).sentence

    content = encoded(catalogue_of(telegram), signer_of(stack))
    await pin(stack, telegram, content)
    other = await run(stack, "rebuild", *chat, PGFERRY_SIGNING_KEY="another-key-of-at-least-32-characters")
    assert other.sentence.startswith("The document was altered, or signed with a key that")
    await pin(stack, telegram, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    altered = await run(stack, "rebuild", *chat)
    assert altered.sentence == "The document is no catalogue of pgferry, or was altered."
    await pin(stack, telegram, b"a person's words")
    assert (await run(stack, "show", *chat)).code == 1

    assert (other.code, altered.code) == (1, 1)
    assert await connection.fetchval("SELECT count(*) FROM control_plane.backups") == 0


async def test_a_backup_whose_manifest_is_not_the_one_is_refused_alone(
    stack: Stack, connection: asyncpg.Connection, telegram: TelegramChatStore
) -> None:
    """It is named with its reason; and a catalogue that is not pinned any more is found by its file id."""
    wrong = await pin(stack, telegram, b"no manifest")
    content = encoded(catalogue_of(telegram, entry_of(stack, wrong)), signer_of(stack))
    file_id = await pin(stack, telegram, content)

    refused = await run(stack, "rebuild", "--file-id", file_id)

    assert refused.code == 1
    assert "the manifest in the chat is not the one that the catalogue names" in refused.out
    assert refused.sentence == "not recorded: 1 backup of 1"
    assert await connection.fetchval("SELECT count(*) FROM control_plane.backups") == 0


async def test_a_catalogue_of_another_bot_is_refused(stack: Stack, telegram: TelegramChatStore) -> None:
    """Its file ids are of no use to this one."""
    foreign = catalogue_of(telegram).model_copy(update={"bot_id": 42})
    await pin(stack, telegram, encoded(foreign, signer_of(stack)))

    said = await run(stack, "rebuild", TELEGRAM_CHAT_ID=str(stack.chat_id))

    assert said.sentence.startswith("the catalogue is bot 42's and TELEGRAM_BOT_TOKEN is bot 7000001's")


def catalogue_of(telegram: TelegramChatStore, *entries: CatalogueEntry) -> Catalogue:
    return Catalogue(bot_id=telegram.bot_id, revision=1, made_at=datetime.now(UTC), entries=entries)


def entry_of(stack: Stack, file_id: str) -> CatalogueEntry:
    return CatalogueEntry(
        backup_id=uuid4(),
        project_id="acme",
        type="database",
        size_bytes=1,
        created_at=datetime.now(UTC),
        expires_at=None,
        chat_id=stack.chat_id,
        message_id=1,
        file_id=file_id,
        sha256="0" * 64,
    )
