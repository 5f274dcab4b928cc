"""One seed from beginning to end: start, load and havoc, heal, rest, evidence, rules."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.chaos.evidence import (
    LISTENER,
    Evidence,
    Gathering,
    Left,
    depths_of,
    files_left,
    prefixes_left,
    processes_of,
    sessions_left,
)
from sandbox.chaos.fault import UPLOADERS, Only
from sandbox.chaos.fleet import LEASE_SECONDS, Fleet
from sandbox.chaos.havoc import Havoc
from sandbox.chaos.history import History, repeated
from sandbox.chaos.kills import Kills
from sandbox.chaos.load import Load
from sandbox.chaos.moments import Moments
from sandbox.chaos.planting import Planting
from sandbox.chaos.restoring import Restoring
from sandbox.chaos.rules import Violation, violations, waste
from sandbox.chaos.servers import BOT_TOKEN, Servers, connected
from sandbox.chaos.timeline import Timeline
from sandbox.directory import ScratchDirectory
from sandbox.held_commits import let_commits_be_held
from sandbox.stack import Stack
from shared.contracts.job import Status
from shared.contracts.topology import EVENTS, QUEUES
from shared.messaging import connection as amqp
from shared.messaging.connection import BROKER_ERRORS
from shared.messaging.declare import declare
from shared.storage.database import open_database
from shared.storage.spool import open_spool
from shared.storage.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from sandbox.chaos.fault import Fault
    from sandbox.chaos.plan import Plan

#: A quorum queue that is younger may come back from a crash without its messages (RabbitMQ 3.10).
_YOUNG_SECONDS: Final = 5.0
_REST_SECONDS: Final = 90.0
_ROUND_SECONDS: Final = 12.0  #: for what a reaper's round must still remove
_POLL_SECONDS: Final = 0.25
_KEEP_SECONDS: Final = 86_400.0  #: a failed job's dump

_OPEN_JOBS: Final = """
    SELECT id, project_id, status, stage, owner, fence, lease_until, run_after, cancel_requested_at,
           error_code
      FROM control_plane.jobs WHERE status IN ('pending', 'running')
"""
_UNSENT: Final = """
    SELECT id, routing_key, correlation_id, attempts, run_after, last_error
      FROM control_plane.outbox WHERE sent_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`folder` is where logs and timeline were kept, for a seed that failed."""

    seed: int
    jobs: Counter[str]
    faults: Counter[Fault]
    retries: int
    takeovers: int
    dead_letters: int
    waste: int
    seconds: float
    violations: tuple[Violation, ...]
    timeline: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """`still_seconds`: how long nothing may change at the end. `restored`: backups of the sample."""

    young_seconds: float = _YOUNG_SECONDS
    still_seconds: float = LEASE_SECONDS
    restored: int = 2


#: The broker is not killed, nobody sleeps past a lease, and parts are random bytes.
_OF_UPLOADS: Final = Pace(0.0, 0.5, 0)


@dataclass(slots=True)
class Seed:
    """One run of a plan on servers that others have used and will use."""

    servers: Servers
    plan: Plan
    timeline: Timeline
    stack: Stack
    fleet: Fleet
    load: Load | Planting
    havoc: Havoc | Kills
    sweeper: Sweeper | None = None  #: where no exporter is there to do it
    pace: Pace = field(default_factory=Pace)
    declared_at: float = field(default_factory=time.monotonic)

    async def run(self) -> Evidence:
        await self.fleet.start_all()
        await asyncio.sleep(max(0.0, self.declared_at + self.pace.young_seconds - time.monotonic()))
        history = asyncio.create_task(History(self.fleet, self.timeline).run())
        try:
            self.timeline.begin()
            await asyncio.gather(self.load.run(self.plan), self.havoc.run(self.plan.faults))
            await self._heal()
            restless = await self._rest()
            return await self._evidence(restless)
        finally:
            history.cancel()

    async def _heal(self) -> None:
        await asyncio.to_thread(self.servers.bot_api.reset)
        await self.havoc.heal()
        self.timeline.say("all faults are over")

    async def _rest(self) -> list[str]:
        """What is still open when the time is up."""
        deadline = time.monotonic() + _REST_SECONDS
        while True:
            while open_ones := await self._everything_open():
                self.fleet.look()
                if time.monotonic() > deadline:
                    return open_ones
                await asyncio.sleep(_POLL_SECONDS)
            self.timeline.say("no job is open and no message waits")
            await asyncio.sleep(self.pace.still_seconds)
            if not await self.open_ones():
                return []

    async def _everything_open(self) -> list[str]:
        """In the database, else in the work queues: a command that nobody has taken yet is a job to come."""
        if open_ones := await self.open_ones():
            return open_ones
        try:
            depths = await depths_of(self.stack.amqp_url)
        except BROKER_ERRORS as error:
            return [f"the broker does not answer: {type(error).__name__}"]
        return [f"{depth} messages wait in {name}" for name, depth in depths.items() if depth]

    async def open_ones(self) -> list[str]:
        async with connected(self.stack.database_url) as connection:
            jobs = await connection.fetch(_OPEN_JOBS)
            unsent = await connection.fetch(_UNSENT)
        return [f"job still open: {dict(job)}" for job in jobs] + [
            f"message unsent: {dict(row)}" for row in unsent
        ]

    async def _evidence(self, restless: list[str]) -> Evidence:
        sessions = await self._settled()
        statuses = await self.statuses()
        await self.fleet.terminate_all()
        gathering = Gathering(
            self.servers, self.stack, self.load, self.havoc.queues_deleted_at, self.fleet.exits
        )
        evidence = await gathering(statuses, restless, sessions)
        evidence.killed = self.havoc.killed
        evidence.restored = await Restoring(self.servers, self.stack).sample(
            evidence.manifests, evidence.chat, seed=self.plan.seed, count=self.pace.restored
        )
        return evidence

    async def _settled(self) -> Left:
        """Wait for at most a reaper's round; what a rule would find after it, the rule finds."""
        deadline = time.monotonic() + _ROUND_SECONDS
        while True:
            left = await sessions_left(self.stack.database_url)
            if self.sweeper is not None:
                await self.sweeper()
            nothing = not (left.idle_sessions or left.tenant_sessions or await self._files())
            if nothing or time.monotonic() > deadline:
                return left
            await asyncio.sleep(_POLL_SECONDS)

    async def _files(self) -> bool:
        async with connected(self.stack.database_url) as connection:
            failed = {
                row["id"]
                for row in await connection.fetch("SELECT id FROM control_plane.jobs WHERE status = 'failed'")
            }
        prefixes = set(prefixes_left(self.stack)) - failed
        return bool(prefixes or files_left(self.stack) or processes_of(self.stack))

    async def statuses(self) -> dict[UUID, str]:
        async with connected(self.stack.database_url) as connection:
            jobs = await connection.fetch("SELECT id, project_id FROM control_plane.jobs")
        answers = await asyncio.gather(*(self.load.status_of(job["id"], job["project_id"]) for job in jobs))
        return {job["id"]: answer for job, answer in zip(jobs, answers, strict=True)}


@asynccontextmanager
async def prepared(servers: Servers, plan: Plan) -> AsyncIterator[Seed]:
    """Database, vhost with its queues, chat and folder for one seed; all of it is gone afterwards."""
    scratch = ScratchDirectory(prefix=f"pgferry-chaos-{plan.seed}-")
    database = await servers.take_database()
    stack = Stack(
        directory=scratch.path,
        database_url=servers.postgres.url(database),
        amqp_url=servers.rabbitmq.url(servers.take_vhost()),
        telegram_api_url=servers.bot_api.url,
        bot_token=BOT_TOKEN,
        chat_id=servers.take_chat(),
        role_passwords=servers.role_passwords,
    )
    try:
        with stack:
            await _declare(stack.amqp_url)
            opening = _of_uploads if plan.only is Only.UPLOADER else _of_everything
            async with opening(servers, plan, stack) as seed:
                yield seed
        await _remove_queues(stack.amqp_url)
        await servers.execute(f"DROP DATABASE {database} WITH (FORCE)")
    finally:
        await asyncio.to_thread(scratch.close)


@asynccontextmanager
async def _of_everything(servers: Servers, plan: Plan, stack: Stack) -> AsyncIterator[Seed]:
    timeline = Timeline()
    fleet = Fleet(stack, servers, timeline)
    load = Load(fleet, timeline, stack.amqp_url)
    moments = Moments(fleet, servers, timeline, load)
    havoc = Havoc(fleet, servers, timeline, stack.amqp_url, moments)
    yield Seed(servers, plan, timeline, stack, fleet, load, havoc)


@asynccontextmanager
async def _of_uploads(servers: Servers, plan: Plan, stack: Stack) -> AsyncIterator[Seed]:
    """Uploaders alone: dumps are planted, and what an exporter sweeps from the spool is swept here."""
    timeline = Timeline()
    async with (
        connected(stack.database_url) as connection,
        open_database(stack.database_url, name="chaos-planter") as database,
    ):
        await let_commits_be_held(connection, ["pgferry_uploader"])
        spool = await open_spool(stack.spool.as_uri(), database)
        fleet = Fleet(stack, servers, timeline, UPLOADERS, direct=True)
        load = Planting(database, spool, timeline)
        kills = Kills(fleet, servers, timeline, load)
        sweeper = Sweeper(database, spool, _KEEP_SECONDS)
        yield Seed(servers, plan, timeline, stack, fleet, load, kills, sweeper, _OF_UPLOADS)


async def run_seed(servers: Servers, plan: Plan) -> Outcome:
    started = time.monotonic()
    async with prepared(servers, plan) as seed:
        try:
            evidence = await seed.run()
        except Exception as error:
            error.add_note(f"seed {plan.seed}: timeline and logs are in {_kept(seed)}")
            raise
        found = tuple(violations(evidence))
        counts = repeated(seed.stack.directory)
        return Outcome(
            seed=plan.seed,
            jobs=Counter(Status(job["status"]).value for job in evidence.jobs.values()),
            faults=seed.timeline.faults,
            retries=counts.retries,
            takeovers=counts.takeovers,
            dead_letters=sum(job["status"] == Status.FAILED for job in evidence.jobs.values()),
            waste=len(waste(evidence)),
            seconds=time.monotonic() - started,
            violations=found,
            timeline=tuple(seed.timeline.lines()),
            folder=_kept(seed) if found else None,
        )


def _kept(seed: Seed) -> Path:
    """Copied to a folder that stays: logs, spool and timeline."""
    folder = Path(tempfile.mkdtemp(prefix=f"pgferry-chaos-failed-{seed.plan.seed}-"))
    shutil.copytree(seed.stack.directory, folder, dirs_exist_ok=True)
    (folder / "timeline.txt").write_text("\n".join(seed.timeline.lines()) + "\n", encoding="utf-8")
    return folder


async def _declare(url: str) -> None:
    """The topology, before any service does, and somebody who listens to events."""
    async with amqp.connected(url, name="chaos") as connection:
        await declare(connection)
        channel = await connection.channel()
        queue = await channel.declare_queue(LISTENER, durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(EVENTS, "#")


async def _remove_queues(url: str) -> None:
    """So that the broker's next start need not recover them."""
    async with amqp.connected(url, name="chaos") as connection:
        channel = await connection.channel()
        for name in (LISTENER, *(queue.name for queue in QUEUES)):
            await channel.queue_delete(name)
