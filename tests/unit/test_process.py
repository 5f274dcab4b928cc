"""The life of a process: what runs beside its work ends with it."""

import asyncio
import subprocess
import sys
from contextlib import suppress

import pytest

from sandbox.stack import REPOSITORY
from shared.runtime import process
from shared.runtime.process import beside


async def nothing() -> None:
    """Work that is done at once, after the background has begun."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_background_that_forgets_a_cancellation_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one does whose `asyncio.wait_for` ended just then, before Python 3.12."""
    monkeypatch.setattr(process, "_ASK_AGAIN_SECONDS", 0.01)
    forgotten = asyncio.Event()

    async def forgetful() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        forgotten.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(60):
        await beside(nothing, forgetful())

    assert forgotten.is_set()


async def test_a_background_that_fails_ends_the_work() -> None:
    """Its error is what is raised; the work is cancelled."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def failing() -> None:
        raise RuntimeError("the background has failed")

    with pytest.raises(ExceptionGroup, match="unhandled errors") as caught:
        await beside(work, failing())

    assert caught.group_contains(RuntimeError, match="the background has failed")
    assert ended.is_set()


_ENDS_WHILE_SIGNALLED = """
import asyncio, os, signal, sys
from shared.runtime.process import run

async def main(stopping):
    os.kill(os.getpid(), signal.SIGTERM)
    await stopping.wait()

code = run(main)
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
sys.exit(code)
"""


def test_a_signal_that_comes_when_the_work_has_ended_changes_no_exit_code() -> None:
    """A second SIGTERM while Python is ending: the process has drained, and says so with 0."""
    done = subprocess.run(
        [sys.executable, "-c", _ENDS_WHILE_SIGNALLED], cwd=REPOSITORY, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


async def test_a_background_that_was_cancelled_by_nobody_does_not_end_in_silence() -> None:
    """As when a library cancels what waits for a connection that died."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ExceptionGroup) as caught:
        await beside(asyncio.Event().wait, cancelled())  # type: ignore[arg-type]

    assert caught.group_contains(RuntimeError, match="cancelled by nobody")


_HANGS_AT_THE_END = """
import asyncio, sys, threading
from shared.runtime import process
from shared.runtime.process import Fatal
from shared.runtime.stopping import Stopped

process.END_SECONDS = 0.1

async def main(stopping):
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    {ends}

sys.exit(process.run(main))
"""


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("return", 0, ""),
        ("raise Stopped", 0, "stopped at once"),
        ("raise Fatal('the folder is not ours')", 1, "the folder is not ours"),
        ("raise OSError('no such mistake')", 1, "no such mistake"),
    ],
)
def test_a_thread_that_hangs_keeps_no_process_alive(ends: str, code: int, said: str) -> None:
    """However its work has ended: that is said, and the exit code is the one that belongs to it."""
    done = subprocess.run(
        [sys.executable, "-c", _HANGS_AT_THE_END.format(ends=ends)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "it ends all the same" in done.stdout + done.stderr
