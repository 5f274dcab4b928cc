"""What a test may turn: calls that are held back, read slowly, refused, or done and answered wrongly.

`app` lets each call pass here before its method runs and again before its answer leaves;
`inspection` is where tests turn the knobs.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from sandbox.bot_api.errors import ApiError, Shape

ANY: Final = "*"
"""In place of a method's name: whatever is called, downloads too."""
DOWNLOAD: Final = "file"
"""In place of a method's name: the download of a file."""

REFUSALS: Final = {
    400: (
        "Bad Request: not enough rights to send documents to the chat",
        "Bad Request: need administrator rights in the channel chat",
        "Bad Request: have no write access to the chat",
        "Bad Request: wrong file_id or the file is temporarily unavailable",
        "Bad Request: message can't be deleted",
    ),
    401: ("Unauthorized",),
    403: (
        "Forbidden: bot was kicked from the channel chat",
        "Forbidden: bot is not a member of the channel chat",
        "Forbidden: bot was kicked from the supergroup chat",
        "Forbidden: the group chat was deleted",
    ),
    413: ("Request Entity Too Large",),
    421: ("Misdirected Request: unallowed token specified",),
    500: ("Internal Server Error: restart",),
    502: ("Bad Gateway",),
    504: ("Gateway Timeout",),
}
"""What the service says with each status; the first of them unless a test names another."""


Planned = TypeVar("Planned")


class Loss(StrEnum):
    """How the answer of a call goes wrong after the call was done."""

    HANG = "hang"  #: the client waits until `release`, or leaves
    DROP = "drop"  #: the connection is closed without an answer
    NO_DOCUMENT = "no-document"  #: the message is answered as if the document were music
    CUT = "cut"  #: a download ends half-way, and its connection with it
    ALTERED = "altered"  #: a download has the right length and one wrong byte


class ConnectionDropped(Exception):
    """The call was done, and its client must not hear of it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`refusal` in place of the method, or, if `stored`, after it; or a `loss` of its answer."""

    refusal: ApiError | None = None
    stored: bool = False
    loss: Loss | None = None


class Knobs:
    """What is planned is taken call by call: a method's own first, then what is planned for any."""

    oversized: Shape = Shape.JSON

    def __init__(self) -> None:
        self._successes_left: dict[str, int] = {}
        self._released = asyncio.Event()
        self._held: Counter[str] = Counter()
        self._planned: dict[str, deque[Fault]] = {}
        self._pauses: dict[str, deque[float]] = {}

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

    def plan(self, method: str, fault: Fault, *, times: int) -> None:
        self._planned.setdefault(method, deque()).extend([fault] * times)

    def drip(self, method: str, *, times: int, pause_seconds: float) -> None:
        self._pauses.setdefault(method, deque()).extend([pause_seconds] * times)

    def reset(self) -> None:
        """Forget all that is planned; waiting calls go on."""
        self._planned.clear()
        self._pauses.clear()
        self.oversized = Shape.JSON
        self.release()

    def pauses(self, method: str) -> Callable[[], Awaitable[None]]:
        """What to await before each piece of this call's body; a release ends this one and all later ones."""
        seconds = _taken(self._pauses, method) or 0.0

        async def pause() -> None:
            nonlocal seconds
            if seconds:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wait(method), seconds)
                    seconds = 0

        return pause

    async def admit(self, method: str) -> Fault:
        """Wait while the method is held; say what is planned for the call.

        Raises ApiError if the call is to be refused in place of its method.
        """
        while self._successes_left.get(method, 1) <= 0:
            await self._wait(method)
        fault = _taken(self._planned, method) or Fault()
        if fault.refusal is not None and not fault.stored:
            raise fault.refusal
        return fault

    async def done(self, method: str, fault: Fault) -> None:
        """Return when the call, which succeeded, may be answered.

        Raises ConnectionDropped if it may not, ApiError if it is to be refused although it was done.
        """
        if method in self._successes_left:
            self._successes_left[method] -= 1
        if fault.refusal is not None:
            raise fault.refusal
        if fault.loss is Loss.DROP:
            raise ConnectionDropped
        if fault.loss is Loss.HANG:
            await self._wait(method)

    async def _wait(self, method: str) -> None:
        self._held[method] += 1
        try:
            await self._released.wait()
        finally:
            self._held[method] -= 1


def _taken(plans: dict[str, deque[Planned]], method: str) -> Planned | None:
    for name in (method, ANY):
        if plans.get(name):
            return plans[name].popleft()
    return None
