"""Puts right, again and again, what nobody else will: each duty is done by one process at a time.

Each service's composition root runs one `Reconciler` beside its work; the duties are in `shared.storage`
and in the exporter, and whoever comes first leads a round.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from shared.contracts.errors import Failure
from shared.runtime.metrics import RECONCILED, RECONCILED_AT
from shared.runtime.process import beside

#: A round that takes longer is given up, so that it cannot keep the duty from the others for ever.
ROUND_SECONDS = 600.0
#: Rounds of several processes and duties must not come as one herd.
_JITTER = 0.2

log = structlog.get_logger(__name__)

Round = Callable[[], Awaitable[Mapping[str, int]]]
"""Does what is to be done now, and says so in the log; returns how many of each kind. What it does is right
even if another process does it at the same moment."""


@dataclass(frozen=True, slots=True)
class Duty:
    name: str
    kinds: tuple[str, ...]  #: of what its rounds count
    round: Round
    period_seconds: float | None = None  #: between two rounds, where not the reconciler's


class Lead(Protocol):
    async def __call__(self, duty: str, work: Round) -> Mapping[str, int] | None:
        """Do the round, or return None when another process does one now.

        Raises Unavailable when that cannot be known, or is not known any more; the round has ended then.
        """


@dataclass(frozen=True, slots=True)
class Reconciler:
    duties: Sequence[Duty]
    lead: Lead
    period_seconds: float

    def __post_init__(self) -> None:
        for duty in self.duties:
            RECONCILED_AT.labels(duty.name)
            for kind in duty.kinds:
                RECONCILED.labels(duty.name, kind)

    async def run(self, stopping: asyncio.Event) -> None:
        """Go on until `stopping`, then stop at once: the next round of anybody goes on."""

        async def stopped() -> None:
            await stopping.wait()

        await beside(stopped, *(self._repeat(duty) for duty in self.duties))

    async def _repeat(self, duty: Duty) -> None:
        failing = False
        period = duty.period_seconds or self.period_seconds
        wait = period * random.random()  # noqa: S311 - spreading load is no cryptography
        while True:
            await asyncio.sleep(wait)
            failing = not await self._succeeds(duty, failing_before=failing)
            wait = period * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - see above

    async def _succeeds(self, duty: Duty, *, failing_before: bool) -> bool:
        """One round; of an outage only the first is told, and the other duties go on."""
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                counts = await self.lead(duty.name, duty.round)
        except Exception as error:  # noqa: BLE001 - one duty's error must not end the others
            if not failing_before:
                _tell(duty, error)
            return False
        if failing_before:
            log.info("the duty is done again", duty=duty.name)
        if counts is not None:
            _count(duty, counts)
        return True


def _count(duty: Duty, counts: Mapping[str, int]) -> None:
    RECONCILED_AT.labels(duty.name).set_to_current_time()
    for kind, count in counts.items():
        RECONCILED.labels(duty.name, kind).inc(count)


def _tell(duty: Duty, error: Exception) -> None:
    if isinstance(error, Failure):
        log.warning("a duty waits and is tried again", duty=duty.name, reason=error.sentence)
    elif isinstance(error, TimeoutError):
        log.warning("a duty takes too long and is tried again", duty=duty.name, seconds=ROUND_SECONDS)
    else:
        log.error("a duty failed and is tried again", duty=duty.name, exc_info=error)
