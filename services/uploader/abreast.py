"""Does at the same time what need not be done one after another: sendings into several chats, and what the
next one needs beside the one under way.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from shared.runtime.stopping import Stopped

Result = TypeVar("Result")

Line = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Does one thing after another; begins none when the event is set, and may raise Stopped instead."""


async def abreast(lines: Iterable[Line]) -> None:
    """Raises what the first one to fail raised, when the others have ended.

    They are not cancelled for it: nobody would know what became of their calls under way.
    """
    given_up = asyncio.Event()
    failures: list[Exception] = []

    async def run(line: Line) -> None:
        try:
            await line(given_up)
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
            given_up.set()

    async with asyncio.TaskGroup() as group:
        for line in lines:
            group.create_task(run(line))
    if failures:
        raise failures[0]


async def one_ahead(works: Iterable[Coroutine[Any, Any, Result]]) -> AsyncGenerator[Result, None]:
    """Their results in order, each while the next is under way; what one raises comes in its turn."""
    under_way: list[asyncio.Task[Result]] = []
    try:
        for work in works:
            under_way.append(asyncio.create_task(work))
            if len(under_way) > 1:
                yield await under_way.pop(0)
        for task in under_way:
            yield await task
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
