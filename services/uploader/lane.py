"""Takes a turn in a lane before each post, so that Telegram need never ask us to wait."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID, uuid4

from services.uploader.metrics import LANE_WAIT_SECONDS
from shared.contracts.errors import Unavailable
from shared.runtime.store_settings import PostingSettings
from shared.storage.database import Database
from shared.storage.lanes import LaneRule
from shared.telegram.errors import FloodWait

#: Between two looks of who stands in line and does not know when his turn comes.
_LOOK_SECONDS = 1.0
_LEAST_SECONDS = 0.02
#: An entry whose process died ends so long after its last renewal.
_LEASE_SECONDS = 60.0
_RENEWALS_IN_A_LEASE = 3


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Lane:
    database: Database
    rule: LaneRule
    owner: str = field(default_factory=_owner)
    lease_seconds: float = _LEASE_SECONDS

    @classmethod
    def of(cls, database: Database, settings: PostingSettings) -> Self:
        rule = LaneRule(
            settings.lane_messages,
            settings.lane_window_seconds,
            settings.bot_messages,
            settings.bot_window_seconds,
        )
        return cls(database, rule)

    @asynccontextmanager
    async def turn(self, bot_id: int, chat_id: int, job_id: UUID | None) -> AsyncIterator[None]:
        """Make one post in the block, when it is this job's turn. Raises Unavailable before it.

        A post for no job stands in line by itself. A FloodWait of the block closes the lane for all.
        """
        if not self.rule.messages:
            yield
            return
        entry = await self._opened(bot_id, chat_id, job_id or uuid4())
        renewing = asyncio.create_task(self._renew(entry))
        try:
            yield
        except FloodWait as wait:  # before the turn ends: nobody may post in between
            await self.flooded(bot_id, chat_id, wait.seconds)
            raise
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            with suppress(Unavailable):  # its own lease ends it later
                async with self.database.session() as session:
                    await session.lanes.end(entry)

    async def flooded(self, bot_id: int, chat_id: int, seconds: float) -> None:
        """Telegram asks to wait: nobody may post before."""
        async with self.database.session() as session:
            await session.lanes.close(bot_id, chat_id, owner=self.owner, seconds=seconds)

    async def sit_out(self, wait: FloodWait) -> None:
        """After a `FloodWait` of a turn: the lane is closed; where there is none, the caller waits here."""
        if not self.rule.messages:
            await asyncio.sleep(wait.seconds)

    async def _renew(self, entry: int) -> None:
        """For as long as the call lasts, however slow its line; until cancelled."""
        while True:
            await asyncio.sleep(self.lease_seconds / _RENEWALS_IN_A_LEASE)
            with suppress(Unavailable):
                async with self.database.session() as session:
                    await session.lanes.renew(entry, self.lease_seconds)

    async def _opened(self, bot_id: int, chat_id: int, job_id: UUID) -> int:
        with LANE_WAIT_SECONDS.time():
            while True:
                async with self.database.transaction() as transaction:
                    place = await transaction.lanes.reserve(
                        bot_id,
                        chat_id,
                        job_id=job_id,
                        owner=self.owner,
                        rule=self.rule,
                        lease_seconds=self.lease_seconds,
                    )
                if place.opened:
                    return place.id
                await asyncio.sleep(_until_the_next_look(place.seconds, self.rule))


def _until_the_next_look(seconds: float | None, rule: LaneRule) -> float:
    """When an entry leaves the window; sooner where one may end meanwhile, or somebody ahead goes away."""
    longest = min(_LOOK_SECONDS, rule.window_seconds / 4)
    return longest if seconds is None else min(longest, max(_LEAST_SECONDS, seconds))
