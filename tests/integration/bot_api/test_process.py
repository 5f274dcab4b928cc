"""The stand-in as a process: crashes, signals, memory."""

import asyncio
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
import telegram

from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import CHATS, TOKEN, RawClient, send_file, until, zeros


def peak_memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def test_messages_and_files_survive_a_crash(own_api: BotApi, session: aiohttp.ClientSession) -> None:
    """On the same port, with the same ids, files, pins and clock."""
    raw = RawClient(own_api, session)
    chat_id = CHATS[0]
    sent = (await raw.send(chat_id, b"content", caption="part")).body["result"]
    await raw.call("pinChatMessage", json={"chat_id": chat_id, "message_id": sent["message_id"]})
    before = own_api.messages(chat_id), own_api.url
    own_api.advance_clock(1000)

    own_api.kill()
    own_api.start()

    assert (own_api.messages(chat_id), own_api.url) == before
    chat = (await raw.call("getChat", json={"chat_id": chat_id})).body["result"]
    assert chat["pinned_message"] == sent
    path = (await raw.call("getFile", json={"file_id": sent["document"]["file_id"]})).body["result"][
        "file_path"
    ]
    assert await raw.download(path) == (200, b"content")
    later = (await raw.send(chat_id, b"x")).body["result"]
    assert later["message_id"] == sent["message_id"] + 1
    assert later["date"] - time.time() > 900


async def test_sigterm_ends_the_process_cleanly(own_api: BotApi, session: aiohttp.ClientSession) -> None:
    """Exit code 0, a held call notwithstanding; what was held isn't stored."""
    raw = RawClient(own_api, session)
    own_api.hold_after("sendDocument", 0)
    held = asyncio.create_task(raw.send(CHATS[0], b"x"))
    await until(lambda: own_api.held("sendDocument") == 1)

    code = await asyncio.to_thread(own_api.stop)

    assert code == 0
    with pytest.raises(aiohttp.ClientError):
        await held
    own_api.start()
    assert own_api.messages(CHATS[0]) == []


def test_the_process_ends_with_its_parent(directory: Path) -> None:
    """Even a parent that is killed leaves no server behind."""
    program = (
        "import sys; from pathlib import Path; from sandbox.bot_api.process import BotApi;"
        f"api = BotApi(Path({str(directory / 'orphan')!r}), tokens=[{TOKEN!r}], chats=[-1]);"
        "api.start(); print(api.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()

    try:
        assert select.select([server], [], [], 5)[0] == [server]
    finally:
        os.close(server)


async def test_memory_does_not_grow_with_what_is_stored(
    bot: telegram.Bot, api: BotApi, chat_id: int, tmp_path: Path
) -> None:
    """A gigabyte of uploads, two at a time, stays under 100 MiB."""
    path = zeros(tmp_path / "a.bin", 40_000_000)

    for _ in range(13):
        await asyncio.gather(*(send_file(bot, chat_id, path) for _ in range(2)))

    assert sum(message.file_size for message in api.messages(chat_id)) == 1_040_000_000
    assert peak_memory_mib(api.pid) < 100
