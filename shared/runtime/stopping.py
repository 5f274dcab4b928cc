"""How a process is asked to end: once to finish what it has in hand, twice to hand it back at once."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Stopped(Exception):
    """The process was asked to end before it had begun its work."""


class Stopping(asyncio.Event):
    """Set by the first SIGTERM or SIGINT; `at_once` is set by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = asyncio.Event()

    def ask(self) -> None:
        """Each signal asks once."""
        if self.is_set():
            self.at_once.set()
        self.set()


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result:
    """Do `work`, but end it as soon as the event is set. Raises Stopped then."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Stopped
        return working.result()
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
