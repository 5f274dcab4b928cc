"""Slots that claim jobs, keep their lease while the work runs, and settle how each attempt ended.

The exporter and the uploader each run one `Worker`; `Attempts` is its port to PostgreSQL and `work` its
use case.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import structlog

from shared.contracts.errors import AttemptsExhausted, LeaseLost, Unavailable
from shared.contracts.job import Claim
from shared.contracts.verdict import Dead, HandBack, RetryAt, verdict
from shared.runtime import spool_calls
from shared.runtime.dependencies import Dependencies
from shared.runtime.limits import within
from shared.runtime.metrics import ATTEMPT_OUTCOMES, ATTEMPTS, SLOTS_BUSY
from shared.runtime.settings import WorkerSettings
from shared.runtime.stopping import Stopped, Stopping, unless

#: What a stopped slot has to say it in that it holds nothing any more.
SETTLE_SECONDS = 5.0

log = structlog.get_logger(__name__)


class AttemptStore(Protocol):
    """Every method but `claim` raises LeaseLost when the claim's fence has moved on or a cancel of the job
    was asked for, and all raise Unavailable when the database cannot be reached.
    """

    async def claim(self) -> Claim | None: ...

    def watching(self, claim: Claim) -> AbstractContextManager[asyncio.Event]:
        """Set during the block when a cancel may have been asked for; the next `renew` knows."""

    async def renew(self, claim: Claim, progress: Mapping[str, int]) -> None: ...

    async def retry(self, claim: Claim, retry: RetryAt) -> None: ...

    async def hand_back(self, claim: Claim, hand_back: HandBack) -> None: ...

    async def bury(self, claim: Claim, dead: Dead) -> None: ...

    async def obey_cancel(self, claim: Claim) -> None:
        """End the job as cancelled. Raises LeaseLost when the fence has moved on or nobody asked for it."""


@dataclass(slots=True)
class Progress:
    """How far the work is; the heartbeat shows it to whoever asks for the job."""

    counts: dict[str, int] = field(default_factory=dict)
    recording: bool = False
    """Set before the final transaction: it ends the lease, so nothing is to be renewed any more."""


Work = Callable[[Claim, Progress], Awaitable[None]]
"""Does the job and writes its final transaction; raises a Failure otherwise. When it raises anything,
or is cancelled, it has removed what it made and ended what it started."""

Discard = Callable[[UUID], None]
"""Removes what a cancelled job has in the spool, whichever half made it; what cannot be removed is left."""


@dataclass(slots=True)
class Worker:
    attempts: AttemptStore
    work: Work
    wake: asyncio.Event
    discard: Discard
    settings: WorkerSettings
    slots: int
    group: str
    needs: Dependencies = field(default_factory=Dependencies)

    def __post_init__(self) -> None:
        for outcome in ATTEMPT_OUTCOMES:
            ATTEMPTS.labels(self.group, outcome)

    async def run(self, stopping: Stopping) -> None:
        """Work until `stopping`; then finish what is in hand within the drain time, or hand it back."""
        slots = [asyncio.create_task(self._slot(stopping)) for _ in range(self.slots)]
        signals = [asyncio.create_task(event.wait()) for event in (stopping, stopping.at_once)]
        try:
            await asyncio.wait([signals[0], *slots], return_when=asyncio.FIRST_COMPLETED)
            self.wake.set()
            drained = asyncio.gather(*slots, return_exceptions=True)
            ends: list[asyncio.Future[Any]] = [drained, signals[1]]
            await asyncio.wait(ends, timeout=self.settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*signals, *slots):
                task.cancel()
            results = await asyncio.gather(*slots, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _slot(self, stopping: Stopping) -> None:
        while not stopping.is_set():
            try:
                if self.needs.missing:
                    await unless(stopping, self.needs.found())
                    continue
                claim = await self._claim()
            except Stopped:
                return
            except Unavailable as error:
                self.needs.lost(error)
                continue
            if claim is None:
                await self._idle(stopping)
            elif stopping.is_set():
                await self._carry_out(claim, HandBack())
            else:
                await self._attempt(claim)

    async def _claim(self) -> Claim | None:
        """A claim that is on its way cannot be called back: who is cancelled meanwhile returns the job."""
        claiming = asyncio.create_task(self.attempts.claim())
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with contextlib.suppress(Unavailable, TimeoutError):
                claim = await within(SETTLE_SECONDS, claiming)
                if claim is not None:
                    await self._hand_back(claim)
            raise

    async def _idle(self, stopping: Stopping) -> None:
        if not stopping.is_set():
            await _wait(self.wake, self.settings.poll_seconds)
            self.wake.clear()

    async def _attempt(self, claim: Claim) -> None:
        work = self.work
        if claim.attempts > self.settings.attempts:  # this one only says that the others are used up
            claim, work = replace(claim, attempts=claim.attempts - 1), _used_up
        job = structlog.contextvars.bound_contextvars(job_id=str(claim.job_id), fence=claim.fence)
        with job, SLOTS_BUSY.track_inprogress():
            log.info("attempt begins", group=self.group, attempt=claim.attempts, project_id=claim.project_id)
            ATTEMPTS.labels(self.group, await self._settled(claim, work)).inc()

    async def _settled(self, claim: Claim, work: Work) -> str:
        try:
            await hold(claim, work, self.attempts, heartbeat_seconds=self.settings.heartbeat_seconds)
        except LeaseLost:
            return await self._let_go(claim)
        except asyncio.CancelledError:
            await self._hand_back(claim)
            raise
        except Exception as error:  # noqa: BLE001 - whatever the work raises, `verdict` decides on it
            if isinstance(error, Unavailable):
                self.needs.lost(error)  # before the job is back, or an idle slot would take it at once
            return await self._failed(claim, error)
        log.info("attempt done", group=self.group)
        return "done"

    async def _failed(self, claim: Claim, error: Exception) -> str:
        end = verdict(
            error,
            attempts=claim.attempts,
            limit=self.settings.attempts,
            spread=random.uniform,
            scale=self.settings.retry_scale,
        )
        log.warning(
            "attempt failed",
            code=end.code,
            reason=end.sentence,
            next=type(end).__name__,
            exc_info=error if end.code == "unexpected_error" else None,
        )
        return await self._carry_out(claim, end)

    async def _hand_back(self, claim: Claim) -> None:
        """When told to stop: a database that does not answer may not hold up the end of the process."""
        try:
            await within(SETTLE_SECONDS, self._carry_out(claim, HandBack()))
        except TimeoutError:
            log.warning("the job could not be handed back: its lease lapses", job_id=str(claim.job_id))

    async def _carry_out(self, claim: Claim, end: RetryAt | HandBack | Dead) -> str:
        """Write how the attempt ended; if that cannot be written, the lease lapses and says it."""
        try:
            match end:
                case RetryAt():
                    await self.attempts.retry(claim, end)
                    return "retry"
                case HandBack():
                    await self.attempts.hand_back(claim, end)
                    return "hand_back"
                case Dead():
                    await self.attempts.bury(claim, end)
                    return "dead"
        except LeaseLost:
            return await self._let_go(claim)
        except Unavailable as error:
            log.warning("the end of the attempt could not be recorded", reason=error.sentence)
            return "lease_lost"

    async def _let_go(self, claim: Claim) -> str:
        """We may change nothing more, but the job may be ours to cancel: that was why we may not."""
        try:
            await self.attempts.obey_cancel(claim)
        except (LeaseLost, Unavailable):
            log.warning("the lease is lost: another worker may have the job")
            return "lease_lost"
        log.info("cancelled as was asked")
        await spool_calls.removed(partial(self.discard, claim.job_id))
        return "cancelled"


async def hold(claim: Claim, work: Work, attempts: AttemptStore, *, heartbeat_seconds: float) -> None:
    """Run the work while its lease lives. Raises LeaseLost after the work has cleaned up."""
    progress = Progress()
    working = asyncio.create_task(_awaited(work(claim, progress)))
    keeping = asyncio.create_task(_keep(claim, attempts, progress, heartbeat_seconds))
    try:
        await asyncio.wait([working, keeping], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
            keeping.result()
        if working.cancelled():
            raise RuntimeError("a cancellation that nobody asked for escaped from the work")
        working.result()
    finally:
        for task in (working, keeping):
            task.cancel()
        await asyncio.gather(working, keeping, return_exceptions=True)


async def _keep(claim: Claim, attempts: AttemptStore, progress: Progress, heartbeat_seconds: float) -> None:
    """Renew until told to stop. Raises LeaseLost when the fence has moved, time has run out or a cancel was
    asked for; a nudge says to look for that now.

    Time is this process's own monotonic clock, counted from before the last successful renewal: a
    process that slept, or cannot reach the database, must stop before somebody else may begin.
    """
    renewed_at = claim.renewed_at
    with attempts.watching(claim) as nudged:
        while True:
            if progress.recording:
                await asyncio.Event().wait()
            lapses_at = renewed_at + claim.lease_seconds
            await _wait(nudged, max(0.0, min(heartbeat_seconds, lapses_at - time.monotonic())))
            nudged.clear()
            before = time.monotonic()
            if before >= lapses_at:
                raise LeaseLost
            try:
                await within(lapses_at - before, attempts.renew(claim, progress.counts))
                renewed_at = before
            except LeaseLost:
                if not progress.recording:
                    raise
            except (Unavailable, TimeoutError):
                left = lapses_at - time.monotonic()
                log.warning("the lease could not be renewed", seconds_left=round(left, 1))
                await asyncio.sleep(max(0.0, min(1.0, heartbeat_seconds / 3, left)))


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _used_up(claim: Claim, _progress: Progress) -> None:
    """Stands for the work when the last allowed attempt ended without a word: its worker died with it."""
    raise AttemptsExhausted(claim.attempts)
