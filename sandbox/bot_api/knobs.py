"""What a test may turn: calls that are held back, refused, or answered with silence although they were done.

`app` lets each call pass here before its method runs and again before its answer leaves;
`inspection` is where tests turn the knobs.
"""

import asyncio
from collections import Counter, deque
from enum import StrEnum
from typing import Final

from sandbox.bot_api.errors import ApiError, flood

REFUSALS: Final = {
    400: "Bad Request: not enough rights to send documents to the chat",
    401: "Unauthorized",
    403: "Forbidden: bot was kicked from the channel chat",
    500: "Internal Server Error: restart",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}
"""What the service says with each status that a call may be refused with, nothing being stored."""


class Loss(StrEnum):
    """How the answer of a call gets lost after the call was done."""

    HANG = "hang"  #: the client waits until `release`, or leaves
    DROP = "drop"  #: the connection is closed without an answer


class ConnectionDropped(Exception):
    """The call was done, and its client must not hear of it."""


class Knobs:
    def __init__(self) -> None:
        self._successes_left: dict[str, int] = {}
        self._released = asyncio.Event()
        self._held: Counter[str] = Counter()
        self._planned: dict[str, deque[ApiError | Loss]] = {}

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
        self._plan(method, [flood(retry_after)] * times)

    def refuse(self, method: str, *, times: int, status: int) -> None:
        self._plan(method, [ApiError(status, REFUSALS[status])] * times)

    def lose(self, method: str, *, times: int, loss: Loss) -> None:
        self._plan(method, [loss] * times)

    def reset(self) -> None:
        """Forget all that is planned; waiting calls go on."""
        self._planned.clear()
        self.release()

    async def admit(self, method: str) -> Loss | None:
        """Wait while the method is held; say how the answer is to be lost, if that is planned.

        Raises ApiError if the call is to be refused.
        """
        while self._successes_left.get(method, 1) <= 0:
            await self._wait(method)
        planned = self._planned.get(method)
        fault = planned.popleft() if planned else None
        if isinstance(fault, ApiError):
            raise fault
        return fault

    async def done(self, method: str, loss: Loss | None) -> None:
        """Return when the call, which succeeded, may be answered; raises ConnectionDropped if it may not."""
        if method in self._successes_left:
            self._successes_left[method] -= 1
        if loss is Loss.DROP:
            raise ConnectionDropped
        if loss is Loss.HANG:
            await self._wait(method)

    def _plan(self, method: str, faults: list[ApiError] | list[Loss]) -> None:
        self._planned.setdefault(method, deque()).extend(faults)

    async def _wait(self, method: str) -> None:
        self._held[method] += 1
        try:
            await self._released.wait()
        finally:
            self._held[method] -= 1
