"""The Bot API server's own queues: files of equal size, unsent messages, and polls for updates.

`app` lets calls stand here.  A restart empties the queues, as it does there.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from sandbox.bot_api.errors import ApiError, conflict, flood
from sandbox.bot_api.limits import SAME_SIZE_BYTES, Rules, next_of_same_size, whole_seconds


@dataclass(frozen=True, slots=True)
class Queues:
    rules: Rules
    now: Callable[[], float]
    _last_of_size: dict[tuple[int, int], float] = field(default_factory=dict)
    _unsent: Counter[tuple[int, int | None]] = field(default_factory=Counter)

    @asynccontextmanager
    async def turn(self, bot_id: int, chat_id: int | None, size: int) -> AsyncIterator[None]:
        """Send one message with a file of this size in the block.

        Raises ApiError 429, late, when the chat has too many unsent ones or too many files of this size wait.
        """
        place = (bot_id, chat_id)
        if self.rules.pending and self._unsent[place] >= self.rules.pending:
            raise await self._flooded()
        self._unsent[place] += 1
        try:
            await self._behind_equals(bot_id, size)
            yield
        finally:
            self._unsent[place] -= 1

    async def _behind_equals(self, bot_id: int, size: int) -> None:
        if not self.rules.same_size or size <= SAME_SIZE_BYTES:
            return
        now = self.now()
        last = self._last_of_size.get((bot_id, size), 0.0)
        turn = next_of_same_size(last, size, now, self.rules.same_size)
        if turn is None:
            raise await self._flooded()
        self._last_of_size[bot_id, size] = turn
        await asyncio.sleep(turn - now)

    async def _flooded(self) -> ApiError:
        await asyncio.sleep(self.rules.flood_answer_seconds)
        return flood(whole_seconds(self.rules.flood_wait_seconds))


@dataclass(slots=True)
class _Poll:
    news: asyncio.Event = field(default_factory=asyncio.Event)
    replaced: bool = False


class Polls:
    """One bot has one poll at a time; a second ends the first."""

    def __init__(self) -> None:
        self._polls: dict[int, _Poll] = {}

    @property
    def waiting(self) -> int:
        return len(self._polls)

    def posted(self) -> None:
        """Something may be new for any bot."""
        for poll in self._polls.values():
            poll.news.set()

    async def wait(self, bot_id: int, ready: Callable[[], bool], seconds: float) -> None:
        """Return when it is ready or the time is over; raises ApiError 409 when another poll begins."""
        self._replace(bot_id)
        poll = self._polls[bot_id] = _Poll()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(_ready(poll, ready), seconds)
        finally:
            if self._polls.get(bot_id) is poll:
                del self._polls[bot_id]

    def _replace(self, bot_id: int) -> None:
        if older := self._polls.get(bot_id):
            older.replaced = True
            older.news.set()


async def _ready(poll: _Poll, ready: Callable[[], bool]) -> None:
    while not ready():
        await poll.news.wait()
        poll.news.clear()
        if poll.replaced:
            raise conflict()
