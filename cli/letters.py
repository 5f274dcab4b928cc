"""What `pgferry dlq …` does; imported by the command that needs it, for it loads an AMQP library.

A letter is acknowledged after what was decided about it is committed. Stopped at any moment, the rest is
where it was: the broker takes back what was not acknowledged.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import typer

from cli.run import control_plane, refuse_url, settings_or_exit, user
from cli.settings import BrokerSettings, LetterSettings
from shared.contracts.letter import Letter
from shared.messaging.letters import Boxes, open_boxes
from shared.storage.database import Database
from shared.storage.letters import Discard, Requeue

_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Letters of some queues: with this id, or this reason, or all of them."""

    queues: Sequence[str]
    id: str | None = None
    reason: str | None = None

    def holds(self, letter: Letter) -> bool:
        return self.id in {None, letter.id} and self.reason in {None, letter.reason}


@dataclass(slots=True)
class Tally:
    """What a batch came to: how many by which way, the last settled letter's sentence, and which letters stay
    and why.
    """

    ways: Counter[str] = field(default_factory=Counter)
    said: str = ""
    refused: list[dict[str, str]] = field(default_factory=list)

    @property
    def settled(self) -> int:
        return self.ways.total() - len(self.refused)


@dataclass(frozen=True, slots=True)
class Decided:
    """What was done about one letter; unless `settled` it stays."""

    way: str
    sentence: str
    settled: bool = True


Decide = Callable[[Letter], Awaitable[Decided]]


async def look(selection: Selection, see: Callable[[Letter], None]) -> None:
    """Show each letter of the selection to `see`, queue by queue."""
    async with _boxes() as boxes:
        for name in selection.queues:
            async with boxes.open(name) as box:
                async for taken in box.letters():
                    if selection.holds(taken.letter):
                        see(taken.letter)


async def requeue(selection: Selection, tally: Tally, *, rate: float) -> None:
    """Put the selection's letters back to work, at most `rate` in a second; `tally` grows meanwhile."""
    async with _deciding() as database:
        one = Requeue(database, user())
        pace = Pace(rate)

        async def decide(letter: Letter) -> Decided:
            await pace.wait()
            done = await one(letter)
            return Decided(done.way.value, done.sentence, done.settled)

        await _each(selection, decide, tally)


async def discard(selection: Selection, tally: Tally) -> None:
    """Throw the selection's letters away; `tally` grows meanwhile."""
    async with _deciding() as database:
        one = Discard(database, user())

        async def decide(letter: Letter) -> Decided:
            await one(letter)
            return Decided("discarded", f"letter {letter.id} is thrown away")

        await _each(selection, decide, tally)


@dataclass(slots=True)
class Pace:
    """At most `rate` steps in a second, evenly."""

    rate: float
    _next: float = 0.0

    async def wait(self) -> None:
        now = time.monotonic()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = max(self._next, now) + 1 / self.rate


async def _each(selection: Selection, decide: Decide, tally: Tally) -> None:
    said_at = time.monotonic()
    async with _boxes() as boxes:
        for name in selection.queues:
            async with boxes.open(name) as box:
                async for taken in box.letters():
                    if not selection.holds(taken.letter):
                        continue
                    decided = await decide(taken.letter)
                    if decided.settled:
                        await taken.acknowledge()
                    _count(tally, taken.letter, decided)
                    if time.monotonic() > said_at + _PROGRESS_SECONDS:
                        said_at = time.monotonic()
                        typer.echo(f"{tally.settled} so far", err=True)


def _count(tally: Tally, letter: Letter, decided: Decided) -> None:
    tally.ways[decided.way] += 1
    if decided.settled:
        tally.said = decided.sentence
    else:
        typer.echo(f"pgferry: letter {letter.id} stays: {decided.sentence}", err=True)
        tally.refused.append({"id": letter.id, "queue": letter.queue, "sentence": decided.sentence})


@asynccontextmanager
async def _deciding() -> AsyncIterator[Database]:
    """The database, once all settings that are needed are there."""
    settings_or_exit(LetterSettings)
    async with control_plane() as database:
        yield database


@asynccontextmanager
async def _boxes() -> AsyncIterator[Boxes]:
    url = settings_or_exit(BrokerSettings).amqp_url
    async with AsyncExitStack() as stack:
        try:
            boxes = await stack.enter_async_context(open_boxes(url))
        except ValueError:
            refuse_url("AMQP_URL")
        yield boxes
