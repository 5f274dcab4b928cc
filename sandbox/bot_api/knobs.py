"""What a test may turn: holding calls back and answering them with a flood.

`app` lets each call pass here between reading its body and running its method;
`inspection` is where tests turn the knobs.
"""

import asyncio
from collections import Counter, deque

from sandbox.bot_api.errors import flood


class Knobs:
    def __init__(self) -> None:
        self._successes_left: dict[str, int] = {}
        self._released = asyncio.Event()
        self._held: Counter[str] = Counter()
        self._floods: dict[str, deque[int]] = {}

    @property
    def held(self) -> dict[str, int]:
        """How many calls wait now, by method."""
        return dict(+self._held)

    def hold_after(self, method: str, successes: int) -> None:
        self._successes_left[method] = successes

    def release(self) -> None:
        self._successes_left.clear()
        self._released.set()
        self._released = asyncio.Event()

    def flood(self, method: str, *, times: int, retry_after: int) -> None:
        self._floods.setdefault(method, deque()).extend([retry_after] * times)

    async def admit(self, method: str) -> None:
        """Wait while the method is held; raise ApiError 429 if a flood is planned for this call."""
        while self._successes_left.get(method, 1) <= 0:
            await self._wait(method)
        if planned := self._floods.get(method):
            raise flood(planned.popleft())

    def succeeded(self, method: str) -> None:
        if method in self._successes_left:
            self._successes_left[method] -= 1

    async def _wait(self, method: str) -> None:
        self._held[method] += 1
        try:
            await self._released.wait()
        finally:
            self._held[method] -= 1
