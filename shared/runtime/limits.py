"""A limit that holds even for what takes its time to be cancelled. The worker settles and renews by it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

#: The event loop itself keeps no task alive.
_left: set[asyncio.Future[Any]] = set()


async def within(seconds: float, work: Coroutine[Any, Any, Result] | asyncio.Task[Result]) -> Result:
    """Its result. Raises TimeoutError when the time is over; the work is cancelled then, and left behind.

    `asyncio.timeout` waits until what it cancels has ended: a query at a server that says nothing first waits
    for the cancel of it to be taken.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        _leave(task)  # also when it has just ended: whoever is cancelled now does not look at its error


def _leave(task: asyncio.Future[Any]) -> None:
    _left.add(task)
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Future[Any]) -> None:
    """Nobody asks any more how it ended, and asyncio would complain."""
    _left.discard(task)
    if not task.cancelled():
        task.exception()
