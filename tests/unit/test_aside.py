"""Calls that hang: who asked goes on, and so does the process."""

import asyncio
import errno
import threading
from collections.abc import Iterator

import pytest

from shared.contracts.errors import Unavailable
from shared.runtime import spool_calls
from shared.runtime.aside import Aside
from shared.runtime.limits import within
from shared.runtime.spool_calls import answered, removed
from tests.waiting import eventually


@pytest.fixture
def thaws(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What the disk waits for; nobody waits long for it."""
    monkeypatch.setattr(spool_calls, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(spool_calls, "FROZEN_SECONDS", 0.1)
    event = threading.Event()
    yield event
    event.set()


async def test_a_disk_that_does_not_answer_is_unavailable(thaws: threading.Event) -> None:
    """It costs no attempt; the call stays behind in its thread."""
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable, match="has not answered") as missing:
            await answered(thaws.wait)

    assert missing.value.name == "spool"


async def test_one_disk_hangs_in_one_thread(thaws: threading.Event) -> None:
    """Who asks again is refused, until the call that hangs has ended."""
    disk, begun = Aside("spool"), list[int]()

    def hangs() -> None:
        begun.append(threading.get_ident())
        thaws.wait()

    for _ in range(3):
        with pytest.raises(Unavailable):
            await answered(hangs, disk=disk)
    assert len(begun) == 1

    thaws.set()

    async def answers() -> bool:
        try:
            return await answered(lambda: True, disk=disk)
        except Unavailable:
            return False

    await eventually(answers)


async def test_a_removal_that_hangs_is_left_to_the_sweeper(thaws: threading.Event) -> None:
    """Who removes goes on."""

    def hangs() -> None:
        thaws.wait()

    async with asyncio.timeout(60):
        await removed(hangs)

    assert not thaws.is_set()


@pytest.mark.usefixtures("thaws")
async def test_a_network_disks_own_time_limit_is_its_error() -> None:
    """Python calls ETIMEDOUT a TimeoutError, too."""

    def times_out() -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    with pytest.raises(OSError, match="timed out") as caught:
        await answered(times_out)

    assert caught.value.errno == errno.ETIMEDOUT


async def test_a_thread_that_could_not_be_started_is_not_waited_for() -> None:
    """The next call is made."""
    aside = Aside("spool")
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await aside(lambda: True)
    finally:
        threading.stack_size(before)

    assert await aside(lambda: True)


async def test_what_takes_its_time_to_be_cancelled_is_left_behind() -> None:
    """Its error, when it comes, is nobody's any more."""
    gives_in, ended = asyncio.Event(), asyncio.Event()

    async def clings() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await gives_in.wait()
            ended.set()
            raise OSError("the connection is lost")

    async with asyncio.timeout(60):
        with pytest.raises(TimeoutError):
            await within(0.05, clings())
        assert not ended.is_set()
        gives_in.set()
        await ended.wait()
