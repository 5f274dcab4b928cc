"""Runs the stand-in as a child process; the demo and the integration tests use it.

Everything here is synchronous: calls are short, and the server is another process.
"""

import json
import select
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, cast

from sandbox.bot_api.errors import Shape
from sandbox.bot_api.knobs import DOWNLOAD, Loss
from sandbox.bot_api.limits import Rules
from sandbox.bot_api.store import StoredMessage

_REAL: Final = Rules()
_REPOSITORY: Final = Path(__file__).parents[2]
_WITH_ITS_PARENT: Final = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Never through a proxy of the environment: the server is on loopback."""


class BotApi:
    """One stand-in and its directory; the kernel kills it when the thread that started it ends."""

    def __init__(
        self,
        directory: Path,
        *,
        tokens: Sequence[str],
        chats: Sequence[int],
        rules: Rules = _REAL,
        local: bool = False,
    ) -> None:
        self._options = [
            f"--directory={directory}",
            *(f"--token={token}" for token in tokens),
            *(f"--chat={chat}" for chat in chats),
            *(f"--{name.replace('_', '-')}={figure}" for name, figure in asdict(rules).items()),
            *(["--local"] if local else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """What python-telegram-bot puts in front of token and method."""
        return f"{self.url}/bot"

    @property
    def base_file_url(self) -> str:
        return f"{self.url}/file/bot"

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> None:
        """Return when the server listens; after the first time on the same port again."""
        options = [*self._options, f"--port={self._port}"]
        self._process = subprocess.Popen(
            [*_WITH_ITS_PARENT, sys.executable, "-m", "sandbox.bot_api", *options],
            stdout=subprocess.PIPE,
            cwd=_REPOSITORY,
        )
        try:
            self._port = int(json.loads(self._first_line())["port"])
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """End the process by SIGTERM; return its exit code."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(_STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process at once, as a crash would; nothing happens if it has ended."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def messages(self, chat_id: int) -> list[StoredMessage]:
        """Every message ever stored in the chat, by id."""
        stored = json.loads(self._ask(f"/inspect/messages?chat_id={chat_id}"))
        return [StoredMessage(**fields) for fields in stored]

    def calls(self) -> dict[str, dict[int, int]]:
        """Answers since the process started, by method ("file" for downloads) and HTTP status."""
        counts = json.loads(self._ask("/inspect/calls"))
        return {name: {int(status): n for status, n in by.items()} for name, by in counts.items()}

    def held(self, method: str) -> int:
        """How many calls of the method wait for `release` now; of getUpdates, for an update."""
        return int(json.loads(self._ask("/inspect/held")).get(method, 0))

    def hold_after(self, method: str, count: int) -> None:
        """After `count` more successes, let calls of the method wait, body read and nothing stored."""
        self._turn("hold-after", method=method, count=count)

    def release(self) -> None:
        """End all holds; waiting calls go on. What is planned for later calls stays planned."""
        self._turn("release")

    def flood(self, method: str, *, times: int, retry_after: int) -> None:
        """Answer the next `times` calls of the method with 429."""
        self._turn("flood", method=method, times=times, retry_after=retry_after)

    def refuse(
        self,
        method: str,
        *,
        times: int,
        status: int,
        description: str | None = None,
        shape: Shape | None = None,
        stored: bool = False,
    ) -> None:
        """Answer the next `times` calls of the method with an error of `knobs.REFUSALS`.

        The calls are not carried out, unless `stored`. 502 and 504 are a page of nginx, all else JSON,
        unless a shape is named. The method may be `knobs.ANY` or `knobs.DOWNLOAD`.
        """
        words = {"description": description, "shape": shape, "stored": stored}
        self._turn("refuse", method=method, times=times, status=status, **words)

    def hang_after_storing(self, method: str, *, times: int) -> None:
        """Carry out the next `times` calls of the method, and answer only after `release`."""
        self._turn("lose", method=method, times=times, loss=Loss.HANG)

    def drop_after_storing(self, method: str, *, times: int) -> None:
        """Carry out the next `times` calls of the method, and close the connection without an answer."""
        self._turn("lose", method=method, times=times, loss=Loss.DROP)

    def answer_without_document(self, *, times: int) -> None:
        """Store the next `times` documents, and answer as if each were a piece of music."""
        self._turn("lose", method="sendDocument", times=times, loss=Loss.NO_DOCUMENT)

    def spoil_downloads(self, *, times: int, loss: Loss) -> None:
        """Give the next `times` downloads cut short (CUT) or with a wrong byte (ALTERED)."""
        self._turn("lose", method=DOWNLOAD, times=times, loss=loss)

    def drip(self, method: str, *, times: int, pause_seconds: float) -> None:
        """Read the files of the next `times` calls slowly: a pause before each piece, until `release`."""
        self._turn("drip", method=method, times=times, pause_seconds=pause_seconds)

    def refuse_oversized(self, shape: Shape) -> None:
        """From now on say in this shape that a body is too large."""
        self._turn("oversized", shape=shape)

    def migrate(self, chat_id: int, new_chat_id: int) -> None:
        """The group becomes a supergroup for good: its old id is refused, with the new one."""
        self._turn("migrate", chat_id=chat_id, new_chat_id=new_chat_id)

    def reset(self) -> None:
        """Forget all that these knobs have planned, and end all holds; the clock stays where it is."""
        self._turn("reset")

    def advance_clock(self, seconds: float) -> None:
        """Move the server's clock forward; a restart does not move it back."""
        self._turn("clock", advance_seconds=seconds)

    def _first_line(self) -> bytes:
        process = self._running()
        output = cast("IO[bytes]", process.stdout)
        if not select.select([output], [], [], _START_SECONDS)[0]:
            raise TimeoutError(f"the Bot API stand-in did not listen within {_START_SECONDS} s")
        line = output.readline()
        if not line:
            raise RuntimeError(f"the Bot API stand-in ended with code {process.wait(_STOP_SECONDS)}")
        return line

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the Bot API stand-in is not running")
        return self._process

    def _turn(self, knob: str, **values: object) -> None:
        self._ask(f"/knobs/{knob}", json.dumps(values).encode())

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        with _OPENER.open(self.url + path, body, timeout=_STOP_SECONDS) as answer:
            return cast("bytes", answer.read())
