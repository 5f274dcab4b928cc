"""Waits for what a service needs at its start, and says what it waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from shared.contracts.errors import Unavailable
from shared.runtime.backoff import backoff

log = structlog.get_logger(__name__)

Opened = TypeVar("Opened")


async def until_available(open_it: Callable[[], Awaitable[Opened]]) -> Opened:
    """Try again while `open_it` raises Unavailable."""
    waits = backoff()
    while True:
        try:
            return await open_it()
        except Unavailable as error:
            log.warning("waiting", reason=error.sentence)
            await asyncio.sleep(next(waits))
