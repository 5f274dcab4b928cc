"""A stand-in that the modules of this folder share, one of a test's own, and their clients."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest
import telegram

from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import CHATS, OTHER_TOKEN, TOKEN, RawClient, ptb_client


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="bot-api-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def api(directory: Path) -> Iterator[BotApi]:
    """One stand-in without a message rule for all tests that need none of their own."""
    with BotApi(
        directory / "shared", tokens=[TOKEN, OTHER_TOKEN], chats=CHATS, rules=Rules.none()
    ) as running:
        yield running


@pytest.fixture
def own_api(directory: Path, request: pytest.FixtureRequest) -> Iterator[BotApi]:
    """A stand-in with a rule of three messages a minute that the test may restart."""
    with BotApi(
        directory / request.node.name, tokens=[TOKEN, OTHER_TOKEN], chats=CHATS, rules=Rules(messages=3)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def unused_chats() -> Iterator[int]:
    return iter(CHATS)


@pytest.fixture
def chat_id(unused_chats: Iterator[int]) -> int:
    return next(unused_chats)


@pytest.fixture(scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # A connection that is kept would be a dead one after a restart.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as opened:
        yield opened


@pytest.fixture(scope="module")
def raw(api: BotApi, session: aiohttp.ClientSession) -> RawClient:
    return RawClient(api, session)


@pytest.fixture(scope="module")
async def bot(api: BotApi) -> AsyncIterator[telegram.Bot]:
    async with ptb_client(api) as opened:
        yield opened
