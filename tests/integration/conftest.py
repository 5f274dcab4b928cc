"""Fixtures of modules that have one database for all their tests, and of those that hold a pg_dump."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.uploader.lane import Lane
from services.uploader.sender import Sender
from services.uploader.upload import Upload
from shared.runtime.signing import MANIFEST, Signer
from shared.storage.spool import open_spool
from shared.telegram.client import TelegramChatStore, open_telegram
from tests.conftest import BOT_TOKEN
from tests.integration.export_plant import Gate, gate_in
from tests.integration.jobs_in import copied_database, empty
from tests.integration.upload_plant import NO_RULE, SIGNING_KEY, Plant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import asyncpg

    from sandbox.bot_api.process import BotApi
    from sandbox.postgres import PostgresServer
    from shared.storage.database import Database


@pytest.fixture(scope="module")
async def home(postgres_server: PostgresServer, control_plane_template: str) -> AsyncIterator[str]:
    """The URL of one database for all tests of a module: each leaves it empty."""
    async with copied_database(postgres_server, control_plane_template) as url:
        yield url


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Where a pg_dump is held until the test opens it."""
    with gate_in(tmp_path) as gate:
        yield gate


@pytest.fixture(scope="module")
async def telegram(bot_api: BotApi) -> AsyncIterator[TelegramChatStore]:
    async with open_telegram(BOT_TOKEN, bot_api.url) as store:
        await store.introduce()
        yield store


@pytest.fixture
async def plant(
    control_plane: Database,
    connection: asyncpg.Connection,
    telegram: TelegramChatStore,
    bot_api: BotApi,
    chat_id: int,
    tmp_path: Path,
) -> Plant:
    await empty(connection)
    spool = await open_spool((tmp_path / "spool").as_uri(), control_plane)
    return Plant(
        database=control_plane,
        owner=connection,
        spool=spool,
        telegram=telegram,
        api=bot_api,
        chat_id=chat_id,
        upload=Upload(
            control_plane,
            spool,
            Sender(control_plane, telegram, [chat_id], Lane(control_plane, NO_RULE)),
            Signer.of([SIGNING_KEY], purpose=MANIFEST),
        ),
    )
