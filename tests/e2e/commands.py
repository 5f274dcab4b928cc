"""Runs `pgferry` as an operator's shell does, and looks at everything it prints."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sandbox.stack import REPOSITORY

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended: its exit code, its data and its messages."""

    code: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401 - whatever the command shows
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """What it said on standard error, which must be one line of its own."""
        (line,) = self.err.splitlines()
        return line.removeprefix("pgferry: ")


async def started(*arguments: str, **settings: str) -> asyncio.subprocess.Process:
    """A command that runs, with these settings and no others."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        *arguments,
        env=_environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def pgferry(*arguments: str, **settings: str) -> Said:
    """Run one command to its end; whatever it was, it shows no traceback, colour or password."""
    return await ended(await started(*arguments, **settings), settings)


async def ended(process: asyncio.subprocess.Process, settings: Mapping[str, str]) -> Said:
    out, err = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode is not None
    said = Said(process.returncode, out.decode(), err.decode())
    everything = said.out + said.err
    assert "Traceback" not in everything, everything
    assert "\x1b" not in everything
    assert not [secret for secret in _secrets(settings) if secret in everything]
    return said


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(REPOSITORY),
        "COLUMNS": "80",
        "NO_COLOR": "1",
        **settings,
    }


def _secrets(settings: Mapping[str, str]) -> list[str]:
    passwords = [urlsplit(value).password for name, value in settings.items() if name.endswith("_URL")]
    named = [settings.get(name) for name in ("TELEGRAM_BOT_TOKEN", "PGFERRY_SIGNING_KEY", "JWT_SECRET")]
    return [secret for secret in passwords + named if secret]
