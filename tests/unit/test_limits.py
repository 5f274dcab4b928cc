"""A limit on work that takes its time to be cancelled, or that ends as its caller does."""

import asyncio
import gc
from typing import Any

import pytest

from shared.runtime.limits import within


async def test_work_that_goes_on_when_it_is_cancelled_is_left_behind() -> None:
    """The caller is told in time."""
    ends = asyncio.Event()

    async def stubborn() -> None:
        try:
            await ends.wait()
        except asyncio.CancelledError:
            await ends.wait()

    with pytest.raises(TimeoutError):
        await within(0.01, stubborn())
    ends.set()


async def test_an_error_at_the_moment_of_a_cancellation_is_not_complained_of() -> None:
    """Its caller has no eye for it any more."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))

    async def failing() -> None:
        caller.cancel()
        raise ConnectionError

    caller = asyncio.create_task(within(60, failing()))
    await asyncio.wait([caller])
    await asyncio.sleep(0)
    gc.collect()
    loop.set_exception_handler(None)

    assert caller.cancelled()
    assert complaints == []
