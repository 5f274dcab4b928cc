"""Lines of work side by side: how they end together, and what is begun ahead of its turn."""

import asyncio
from contextlib import aclosing

import pytest

from services.uploader.abreast import abreast, one_ahead
from shared.runtime.stopping import Stopped


class Fault(Exception):
    """What a line fails with."""


async def failing(_given_up: asyncio.Event) -> None:
    raise Fault


async def test_lines_run_at_the_same_time() -> None:
    """Each waits for the other."""
    here, there = asyncio.Event(), asyncio.Event()

    async def first(_given_up: asyncio.Event) -> None:
        here.set()
        await there.wait()

    async def second(_given_up: asyncio.Event) -> None:
        there.set()
        await here.wait()

    async with asyncio.timeout(10):
        await abreast([first, second])


async def test_a_failure_is_raised_when_the_others_have_ended() -> None:
    """They hear of it, end what they have in hand, and are not cancelled."""
    ended = []

    async def careful(given_up: asyncio.Event) -> None:
        await given_up.wait()
        await asyncio.sleep(0)
        ended.append("careful")
        raise Stopped

    with pytest.raises(Fault):
        await abreast([careful, failing])

    assert ended == ["careful"]


async def test_of_two_failures_the_first_is_raised() -> None:
    """What comes after it may be its consequence."""

    async def late(given_up: asyncio.Event) -> None:
        await given_up.wait()
        raise ValueError

    with pytest.raises(Fault):
        await abreast([late, failing])


async def test_who_is_cancelled_cancels_all_lines_and_waits_for_them() -> None:
    """As when the lease is lost."""
    begun, ended = asyncio.Event(), []

    async def line(_given_up: asyncio.Event) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("line")

    task = asyncio.create_task(abreast([line, line]))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["line", "line"]


async def test_the_next_work_is_under_way_while_a_result_is_used() -> None:
    """One ahead, and no more."""
    begun: list[int] = []

    async def work(number: int) -> int:
        begun.append(number)
        return number

    seen = []
    async with aclosing(one_ahead(work(number) for number in range(4))) as results:
        async for number in results:
            await asyncio.sleep(0)
            seen.append((number, len(begun)))

    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]


async def test_what_a_work_raises_comes_in_its_turn() -> None:
    """The results before it are good."""

    async def work(number: int) -> int:
        if number == 1:
            raise Fault
        return number

    async with aclosing(one_ahead(work(number) for number in range(3))) as results:
        assert await anext(results) == 0
        with pytest.raises(Fault):
            await anext(results)


async def test_work_that_nobody_waits_for_any_more_is_ended() -> None:
    """Whoever leaves leaves nothing running."""
    ended = asyncio.Event()

    async def endless() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 1

    async def one() -> int:
        return 0

    results = one_ahead(iter([one(), endless()]))
    assert await anext(results) == 0
    await results.aclose()

    assert ended.is_set()
