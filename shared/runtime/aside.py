"""Blocking calls that may never return, as on a disk that does not answer: nobody waits for them."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shared.contracts.errors import Unavailable

Result = TypeVar("Result")


@dataclass(slots=True)
class Aside:
    """One call at a time, in a thread that neither the pool of threads nor the process's end waits for."""

    name: str  #: what is called, for the error
    _running: asyncio.Future[Any] | None = field(default=None, init=False)

    async def __call__(self, call: Callable[[], Result]) -> Result:
        """Raises Unavailable while an earlier call, which was given up, has not returned."""
        if self._running is not None and not self._running.done():
            raise Unavailable(self.name, f"The {self.name} has not answered an earlier call.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        answer.add_done_callback(_look)

        def run() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:  # noqa: BLE001 - for whoever waits
                error = raised
            with contextlib.suppress(RuntimeError):  # it was given up, and the loop is gone
                loop.call_soon_threadsafe(_settle, answer, result, error)

        threading.Thread(target=run, name=self.name, daemon=True).start()
        self._running = answer
        return await asyncio.shield(answer)


def _settle(answer: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


def _look(answer: asyncio.Future[Any]) -> None:
    """Of a call that was given up nobody asks for its error, and asyncio would complain."""
    if not answer.cancelled():
        answer.exception()
