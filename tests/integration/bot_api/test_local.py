"""A server of one's own that runs with `--local`: paths instead of links, and larger files."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest

from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import CHATS, TOKEN, RawClient, ptb_client, send_file, zeros

LARGE = 60 << 20


@pytest.fixture(scope="module")
def local() -> Iterator[BotApi]:
    with (
        TemporaryDirectory(prefix="bot-api-") as path,
        BotApi(Path(path), tokens=[TOKEN], chats=CHATS, rules=Rules.none(), local=True) as api,
    ):
        yield api


async def test_a_file_of_the_servers_machine_is_sent_by_its_path(
    local: BotApi, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Under its own name; a path that isn't there is refused."""
    path = tmp_path / "part.p00001"
    path.write_bytes(b"content")
    raw = RawClient(local, session)

    async with ptb_client(local, local_mode=True) as bot:
        by_library = await bot.send_document(CHATS[0], f"file://{path}")
    plainly = await raw.call("sendDocument", json={"chat_id": CHATS[0], "document": f"file://{path}"})
    refused = await raw.call("sendDocument", json={"chat_id": CHATS[0], "document": f"file://{path}.no"})

    assert by_library.document is not None
    assert by_library.document.file_name == "part.p00001"
    assert plainly.body["result"]["document"]["file_size"] == len(b"content")
    assert refused.status == 400
    assert path.read_bytes() == b"content"


async def test_the_content_lies_at_an_absolute_path(local: BotApi, session: aiohttp.ClientSession) -> None:
    """Which the client reads itself; there are no downloads."""
    raw = RawClient(local, session)
    async with ptb_client(local, local_mode=True) as bot:
        sent = await bot.send_document(CHATS[1], b"content")
        assert sent.document is not None
        file = await bot.get_file(sent.document)
        content = await file.download_as_bytearray()
    plainly = (await raw.call("getFile", json={"file_id": sent.document.file_id})).body["result"]

    assert content == b"content"
    path = Path(plainly["file_path"])
    assert path.is_absolute()
    assert path.read_bytes() == b"content"  # noqa: ASYNC240 - a few bytes
    assert (await raw.download("documents/file_1.bin"))[0] == 404


async def test_files_may_be_larger_than_of_the_cloud(
    local: BotApi, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Over 50 MB up, and over 20 MiB back."""
    path = zeros(tmp_path / "large.bin", LARGE)
    async with ptb_client(local, local_mode=True) as bot:
        file_id = await send_file(bot, CHATS[2], path)
        assert (await bot.get_file(file_id)).file_size == LARGE
    answer = await RawClient(local, session).call("getFile", json={"file_id": file_id})

    stored = Path(answer.body["result"]["file_path"])
    assert stored.stat().st_size == LARGE  # noqa: ASYNC240 - one local stat
