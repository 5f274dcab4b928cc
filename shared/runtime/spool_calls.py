"""Calls to the spool that end, whatever its disk does: leases, locks and the end of a process depend on it.

Exporter, uploader and worker make their calls through these; one that hangs stays behind in its thread.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog

from shared.contracts.errors import Unavailable
from shared.runtime.aside import Aside

#: What a tenant's locks or a stopped process wait for at most.
FROZEN_SECONDS = 3.0
#: For a folder, a small file, the volume's room.
ANSWER_SECONDS = 30.0
#: To read a part, which has 20 MiB at most.
PART_SECONDS = 120.0

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


async def answered(call: Callable[[], Result], *, disk: Aside | None = None) -> Result:
    """Raises Unavailable when there is no answer in time; by one `disk` one call hangs at most."""
    return await answered_within(ANSWER_SECONDS, call, disk=disk)


async def answered_within(seconds: float, call: Callable[[], Result], *, disk: Aside | None = None) -> Result:
    """`answered`, in other than the usual time."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await (disk or Aside("spool"))(call)
    except TimeoutError as error:
        if not limit.expired():  # a network disk's own, an OSError
            raise
        raise Unavailable("spool", f"The spool has not answered within {seconds:g} s.") from error


async def removed(removal: Callable[[], None]) -> None:
    """What is not removed in time is left to the sweeper."""
    try:
        await answered_within(FROZEN_SECONDS, removal)
    except Unavailable as error:
        log.warning("what was to be removed is left to the sweeper", reason=error.sentence)
