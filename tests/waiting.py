"""Waiting for what other tasks bring about: a condition with a deadline, never a guess of how long."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

from shared.runtime.process import endable

_POLL_SECONDS = 0.02


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
    """Poll `condition` until it holds; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def beside(work: Coroutine[object, object, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` for the time of the block; if it fails first, the block is cancelled."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(endable(work))
        yield task
        task.cancel()
