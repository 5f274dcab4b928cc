"""Wakes those who wait for work, or may have to stop it: in this process by an event, in others by NOTIFY.

A nudge is a hint and may be lost: everybody who waits also polls. NOTIFY runs outside the business
transaction, where it would take a lock at commit and cost most of the throughput; it is debounced.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

import asyncpg
import structlog

from shared.storage.executor import CONNECTION_LOST

OUTBOX = "outbox"  #: rows to publish
DUMP = "dump"  #: jobs for an exporter
UPLOAD = "upload"  #: jobs for an uploader

_CHANNEL = "pgferry"
_DEBOUNCE_SECONDS = 0.05
_RECONNECT_SECONDS = 2.0

log = structlog.get_logger(__name__)


def cancel_of(job_id: UUID) -> str:
    """For the worker that holds this job: somebody asked for it to be cancelled."""
    return f"cancel:{job_id}"


class Nudges:
    def __init__(self, url: str, pool: asyncpg.Pool) -> None:
        self._url = url
        self._pool = pool
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._watching: set[tuple[str, asyncio.Event]] = set()
        self._pending: set[str] = set()
        self._notifier: asyncio.Task[None] | None = None

    def event(self, name: str) -> asyncio.Event:
        """Set whenever there may be work of this name; the waiter clears it."""
        return self._events[name]

    @contextlib.contextmanager
    def watching(self, name: str) -> Iterator[asyncio.Event]:
        """An event of the caller's own, which nobody else clears, for the time of the block."""
        watcher = (name, asyncio.Event())
        self._watching.add(watcher)
        try:
            yield watcher[1]
        finally:
            self._watching.discard(watcher)

    def send(self, name: str) -> None:
        """Wake this process now and the others shortly after; never waits, never fails."""
        self._wake(name)
        self._pending.add(name)
        if self._notifier is None or self._notifier.done():
            self._notifier = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        while self._pending:
            await asyncio.sleep(_DEBOUNCE_SECONDS)
            names, self._pending = self._pending, set()
            with contextlib.suppress(*CONNECTION_LOST, asyncpg.PostgresError, TimeoutError):
                async with self._pool.acquire() as connection:
                    for name in sorted(names):
                        await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, name)

    async def listen(self) -> None:
        """Turn other processes' nudges into events of this one, for ever; reconnects by itself."""
        while True:
            try:
                await self._listen_once()
            except (*CONNECTION_LOST, asyncpg.PostgresError, TimeoutError) as error:
                log.debug("listening for nudges was interrupted", error=type(error).__name__)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        connection = await asyncpg.connect(
            self._url, timeout=10, server_settings={"application_name": "pgferry-listen"}
        )
        ended = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _connection: ended.set())
            await connection.add_listener(_CHANNEL, self._heard)
            for name in (*self._events, *(name for name, _ in self._watching)):
                self._wake(name)  # what was said while nobody listened
            await ended.wait()
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if isinstance(payload, str):
            self._wake(payload)

    def _wake(self, name: str) -> None:
        """Whoever waits for this; a job's name that only other processes know leaves nothing behind."""
        waiting = [event for watched, event in self._watching if watched == name]
        if name in self._events:
            waiting.append(self._events[name])
        for event in waiting:
            event.set()

    async def close(self) -> None:
        """Let a last NOTIFY leave; nothing of this process sends afterwards."""
        if self._notifier is not None and not self._notifier.done():
            await asyncio.wait([self._notifier], timeout=2 * _DEBOUNCE_SECONDS + 1)
            self._notifier.cancel()
