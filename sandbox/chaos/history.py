"""What became of each job while a seed ran, and how often an attempt was repeated or taken over."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from sandbox.chaos.servers import connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox.chaos.fleet import Fleet
    from sandbox.chaos.timeline import Timeline

_LOOK_SECONDS: Final = 0.25
_JOBS: Final = """
    SELECT id, project_id, status, stage, fence, owner, dump_attempts, upload_attempts, error_code,
           cancel_requested_at IS NOT NULL AS cancel
      FROM control_plane.jobs
"""
#: A future inside asyncpg, of a connection that was lost before it was made; who awaited it was told.
_OF_ASYNCPG: Final = "unexpected connection_lost() call"
_SURPRISING: Final = frozenset({"error", "critical"})
_AWAY: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@dataclass(slots=True)
class History:
    """Looks at all jobs again and again, past the proxies, and notes each change in the timeline."""

    fleet: Fleet
    timeline: Timeline
    _seen: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        while True:
            try:
                async with connected(self.fleet.stack.database_url) as connection:
                    while True:
                        self._note(await connection.fetch(_JOBS))
                        await asyncio.sleep(_LOOK_SECONDS)
            except _AWAY:
                await asyncio.sleep(_LOOK_SECONDS)

    def _note(self, jobs: list[asyncpg.Record]) -> None:
        for job in jobs:
            now = self._described(job)
            if self._seen.get(str(job["id"])) != now:
                self._seen[str(job["id"])] = now
                self.timeline.say(f"job {job['id']} {now}")

    def _described(self, job: asyncpg.Record) -> str:
        holder = f" by {self.fleet.name_of(job['owner']) or job['owner']}" if job["owner"] else ""
        attempts = f"attempts {job['dump_attempts']}+{job['upload_attempts']}"
        cancel = " cancel asked" if job["cancel"] else ""
        return (
            f"{job['project_id']} {job['status']}/{job['stage']} fence {job['fence']}{holder} {attempts}"
            f"{cancel} {job['error_code'] or ''}"
        )


@dataclass(frozen=True, slots=True)
class Repeated:
    """`retries` failed and were tried again; `takeovers` had an earlier attempt that ended without a word."""

    retries: int
    takeovers: int


def repeated(directory: Path) -> Repeated:
    """Counted from the services' own logs."""
    begun: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    retried: set[tuple[str, int]] = set()
    for event in _events(directory):
        if event.get("event") == "attempt begins":
            begun[event["job_id"], event["group"]].append((event["fence"], event["attempt"]))
        elif event.get("event") == "attempt failed" and event.get("next") == "RetryAt":
            retried.add((event["job_id"], event["fence"]))
    return Repeated(len(retried), sum(_takeovers(job, begun[job, group], retried) for job, group in begun))


def surprises(directory: Path) -> list[str]:
    """Errors that nobody foresaw: faults of the surroundings are warnings, each with its own words."""
    return [
        f"{event.get('service')}: {event['event']} {event.get('job_id', '')} {_last_line(event)}".strip()
        for event in _events(directory)
        if (event.get("level") in _SURPRISING or event.get("code") == "unexpected_error")
        and not (event.get("logger") == "asyncio" and _OF_ASYNCPG in str(event["event"]))
    ]


def _last_line(event: dict[str, Any]) -> str:
    return str(event.get("exception", "")).strip().rpartition("\n")[2]


def _takeovers(job: str, attempts: list[tuple[int, int]], retried: set[tuple[str, int]]) -> int:
    ordered = sorted(attempts)
    return sum(
        later[1] > earlier[1] and (job, earlier[0]) not in retried
        for earlier, later in itertools.pairwise(ordered)
    )


def _events(directory: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(directory.glob("*.log")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
