"""What the uploader is measured against: the same files sent by python-telegram-bot alone, and by curl.

`python -m sandbox.bench.upload_rivals API_URL CHAT_ID FILE ...` is the loop, in a process of its own, as the
uploader is one; the token comes on its standard input, and it prints how many seconds the sending took.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import telegram
from telegram import InputFile
from telegram.request import HTTPXRequest

from sandbox.bench.plant import BenchFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Rivals:
    api_url: str
    token: str
    chat_id: int
    paths: Sequence[Path]

    async def loop(self) -> float:
        """Seconds from the first call to the last answer; opening the bot is not counted."""
        command = [sys.executable, "-m", __name__, self.api_url, str(self.chat_id), *map(str, self.paths)]
        done = await asyncio.to_thread(_run, command, self.token)
        return float(done)

    async def curl(self) -> float:
        """Seconds from the first process to the end of the last."""
        started = time.monotonic()
        for path in self.paths:
            form = [f"-Fchat_id={self.chat_id}", f"-Fdocument=@{path}"]
            url = f'url = "{self.api_url}/bot{self.token}/sendDocument"\n'
            await asyncio.to_thread(_run, ["curl", "-sf", "--noproxy", "*", "-K", "-", *form], url)
        return time.monotonic() - started


def _run(command: Sequence[str], said: str) -> str:
    done = subprocess.run(command, input=said, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise BenchFailed(f"{command[0]} ended with {done.returncode}")
    return done.stdout


async def _loop(api_url: str, chat_id: int, paths: Sequence[Path], token: str) -> float:
    request = HTTPXRequest(read_timeout=_SECONDS, media_write_timeout=_SECONDS)
    async with telegram.Bot(token, base_url=f"{api_url}/bot", request=request) as bot:
        started = time.monotonic()
        for path in paths:
            with path.open("rb") as file:
                document = InputFile(file, filename=path.name, read_file_handle=False)
                await bot.send_document(chat_id, document)
        return time.monotonic() - started


def _main(api_url: str, chat_id: str, *paths: str) -> None:
    token = sys.stdin.read()
    print(asyncio.run(_loop(api_url, int(chat_id), [Path(path) for path in paths], token)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
