"""What a process needs and does not have right now: who waits for it pauses, and a probe finds it again.

Composition roots name each dependency with its probe; the slots of the worker share one `Dependencies`,
so that one of them probes and none claims a job meanwhile. `/readyz` and a metric tell what is missing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from shared.contracts.errors import Failure, Unavailable
from shared.runtime.backoff import backoff
from shared.runtime.metrics import WAITING
from shared.runtime.outage import Outage
from shared.runtime.stopping import unless

PROBE_SECONDS = 10.0
#: Pauses go on growing for what is lost again sooner than this.
STEADY_SECONDS = 60.0

Probe = Callable[[], Awaitable[object]]
"""A cheap call to the dependency; raises a Failure while it is of no use."""

Opened = TypeVar("Opened")


@dataclass(slots=True)
class _State:
    outage: Outage
    waits: Iterator[float]
    probe: Probe | None = None
    missing: bool = False
    found_at: float = 0.0


class Dependencies:
    """By name. What has no probe counts as found after one wait: the next job will tell."""

    def __init__(self, *opened_at_start: str, waits: Callable[[], Iterator[float]] = backoff) -> None:
        """Those named are missing until `opened`."""
        self._waits = waits
        self._states: dict[str, _State] = {}
        self._probing = asyncio.Lock()
        for name in opened_at_start:
            self._miss(name)

    def probe_by(self, name: str, probe: Probe) -> None:
        """How to find `name` again."""
        self._state(name).probe = probe

    def ready(self) -> dict[str, Callable[[], bool]]:
        """For `/readyz`: whether each that was named by now is there."""
        return {name: partial(self._has, name) for name in self._states}

    @property
    def missing(self) -> list[str]:
        return [name for name, state in self._states.items() if state.missing]

    def lost(self, error: Unavailable) -> None:
        """Everybody who asks `found` waits from now on."""
        state = self._state(error.name)
        if not state.missing and time.monotonic() > state.found_at + STEADY_SECONDS:
            state.waits = self._waits()
        self._miss(error.name)
        state.outage.goes_on(error.sentence)

    async def found(self) -> None:
        """Return when nothing is missing; of those who wait here, one probes."""
        async with self._probing:
            while self.missing:
                await self._probe(self.missing[0])

    async def opened(
        self, name: str, open_it: Callable[[], Coroutine[Any, Any, Opened]], *, stopping: asyncio.Event
    ) -> Opened:
        """Open it for the first time, however long it is away. Raises Stopped."""
        awaited = name
        while True:
            try:
                opened = await unless(stopping, open_it())
            except Unavailable as error:
                if awaited not in {name, error.name}:
                    self._found(awaited)
                awaited = error.name
                self.lost(error)
                await unless(stopping, asyncio.sleep(next(self._state(awaited).waits)))
            else:
                self._found(awaited)
                self._found(name)
                return opened

    async def _probe(self, name: str) -> None:
        state = self._state(name)
        await asyncio.sleep(next(state.waits))
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                if state.probe is not None:
                    await state.probe()
        except Failure as error:
            state.outage.goes_on(error.sentence)
        except TimeoutError:
            state.outage.goes_on(f"No answer within {PROBE_SECONDS:g} s.")
        else:
            self._found(name)

    def _state(self, name: str) -> _State:
        if name not in self._states:
            self._states[name] = _State(Outage(name), self._waits())
            WAITING.labels(name).set(0)
        return self._states[name]

    def _has(self, name: str) -> bool:
        return not self._state(name).missing

    def _miss(self, name: str) -> None:
        self._state(name).missing = True
        WAITING.labels(name).set(1)

    def _found(self, name: str) -> None:
        state = self._state(name)
        state.missing, state.found_at = False, time.monotonic()
        WAITING.labels(name).set(0)
        state.outage.ended()
