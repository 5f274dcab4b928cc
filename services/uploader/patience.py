"""Repeats a call of an operator's command: nobody else would come back to it later."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from shared.contracts.errors import Failure, TemporaryError, Unavailable

#: Seconds before the second attempt, and before the third.
WAITS: Final = (1.0, 5.0)

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


def _always(_error: Failure) -> bool:
    return True


async def patiently(
    call: Callable[[], Awaitable[Result]],
    waits: Sequence[float],
    *,
    may_repeat: Callable[[Failure], bool] = _always,
) -> Result:
    """Try again what may pass; the last attempt's error is the caller's."""
    for wait in waits:
        try:
            return await call()
        except (TemporaryError, Unavailable) as error:
            if not may_repeat(error):
                raise
            seconds = max(wait, getattr(error, "retry_after", None) or 0.0)
            log.warning("tried again", reason=error.sentence, seconds=seconds)
        await asyncio.sleep(seconds)
    return await call()
