"""Calls that await the broker: each has its time, and a lost connection is an error like any other."""

import asyncio

import pytest

from shared.messaging.connection import BROKER_ERRORS, answered


async def test_a_call_that_the_library_cancels_is_a_lost_connection() -> None:
    """Or a session would end like one that was told to stop."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionError) as caught:
        await answered(cancelled())

    assert isinstance(caught.value, BROKER_ERRORS)


async def test_a_call_without_an_answer_ends_in_time() -> None:
    """Even one that goes on waiting when it is cancelled."""
    ends = asyncio.Event()

    async def stubborn() -> None:
        try:
            await ends.wait()
        except asyncio.CancelledError:
            await ends.wait()

    with pytest.raises(TimeoutError, match="did not answer within"):
        await answered(stubborn(), seconds=0.01)
    ends.set()
