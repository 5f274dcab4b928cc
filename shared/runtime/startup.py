"""Repeats a call until what it needs is there, and says what it waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.contracts.errors import Unavailable
from shared.runtime.backoff import backoff
from shared.runtime.outage import Outage

Result = TypeVar("Result")


async def until_available(call: Callable[[], Awaitable[Result]]) -> Result:
    """Try again while `call` raises Unavailable."""
    waits, outages = backoff(), dict[str, Outage]()
    while True:
        try:
            result = await call()
        except Unavailable as error:
            outages.setdefault(error.name, Outage(error.name)).goes_on(error.sentence)
            await asyncio.sleep(next(waits))
        else:
            for outage in outages.values():
                outage.ended()
            return result
