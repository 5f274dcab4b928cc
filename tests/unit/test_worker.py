"""Slots, leases and how attempts end: one suite for a store in memory and for the one on PostgreSQL."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from structlog.typing import EventDict

from sandbox.postgres import PostgresServer
from shared.contracts.errors import LeaseLost, PermanentError, TemporaryError, Unavailable
from shared.contracts.job import Claim, ExportOptions, Stage, StageGroup, Status
from shared.contracts.verdict import Dead, HandBack, RetryAt
from shared.runtime.backoff import backoff
from shared.runtime.dependencies import Dependencies
from shared.runtime.settings import WorkerSettings, load
from shared.runtime.stopping import Stopping
from shared.runtime.worker import AttemptStore, Discard, Progress, Work, Worker
from shared.storage.attempts import Attempts
from shared.storage.cancel import cancel
from shared.storage.database import Database
from shared.storage.jobs import Job
from tests.integration.jobs_in import add_job, copied_database, dump, empty, find, lapse
from tests.waiting import eventually

LEASE_SECONDS = 60.0
DUMP = StageGroup.DUMP
QUICKLY = partial(backoff, first=0.01, longest=0.02)


@dataclass(slots=True)
class State:
    """A job as this suite looks at it."""

    id: UUID
    project_id: str
    status: Status = Status.PENDING
    stage: Stage = Stage.QUEUED
    fence: int = 0
    attempts: int = 0
    error_code: str | None = None
    progress: Mapping[str, int] | None = None
    run_after: float = 0.0  #: monotonic
    leased_until: float = 0.0  #: monotonic
    to_cancel: bool = False
    nudged: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class MemoryAttempts:
    """Keeps the contract of AttemptStore in one process."""

    lease_seconds: float
    jobs: list[State] = field(default_factory=list)

    async def claim(self) -> Claim | None:
        now = time.monotonic()
        for job in self.jobs:
            waits = max(job.run_after, job.leased_until) > now
            ended = job.to_cancel or job.status is Status.FAILED
            if not waits and not ended and job.stage in {Stage.QUEUED, Stage.DUMPING}:
                return self._taken(job, now)
        return None

    def _taken(self, job: State, now: float) -> Claim:
        job.status, job.stage = Status.RUNNING, Stage.DUMPING
        job.fence += 1
        job.attempts += 1
        job.leased_until = now + self.lease_seconds
        return Claim(
            job_id=job.id,
            project_id=job.project_id,
            group=DUMP,
            fence=job.fence,
            attempts=job.attempts,
            dump_fence=None,
            options=ExportOptions(project_id=job.project_id),
            created_at=datetime.now(UTC),
            traceparent=None,
            lease_seconds=self.lease_seconds,
            renewed_at=now,
        )

    @contextmanager
    def watching(self, claim: Claim) -> Iterator[asyncio.Event]:
        yield self.find(claim.job_id).nudged

    async def renew(self, claim: Claim, progress: Mapping[str, int]) -> None:
        job = self._held(claim)
        job.leased_until = time.monotonic() + self.lease_seconds
        job.progress = dict(progress) or job.progress

    async def retry(self, claim: Claim, retry: RetryAt) -> None:
        self._put_back(claim, retry)

    async def hand_back(self, claim: Claim, hand_back: HandBack) -> None:
        self._put_back(claim, hand_back).attempts -= 1

    async def bury(self, claim: Claim, dead: Dead) -> None:
        job = self._held(claim)
        job.status, job.error_code, job.leased_until = Status.FAILED, dead.code, 0.0
        job.attempts = claim.attempts

    async def obey_cancel(self, claim: Claim) -> None:
        job = self.find(claim.job_id)
        if job.fence != claim.fence or not job.to_cancel:
            raise LeaseLost
        job.status, job.error_code, job.leased_until = Status.CANCELLED, "cancelled", 0.0

    def _put_back(self, claim: Claim, end: RetryAt | HandBack) -> State:
        job = self._held(claim)
        job.stage, job.error_code, job.leased_until = Stage.QUEUED, end.code or job.error_code, 0.0
        if isinstance(end, RetryAt):
            job.run_after = time.monotonic() + end.delay_seconds
        return job

    def finish(self, claim: Claim) -> None:
        job = self._held(claim)
        job.stage, job.leased_until = Stage.DUMPED, 0.0

    def find(self, job_id: UUID) -> State:
        [job] = [job for job in self.jobs if job.id == job_id]
        return job

    def _held(self, claim: Claim) -> State:
        job = self.find(claim.job_id)
        if job.fence != claim.fence or job.leased_until <= time.monotonic() or job.to_cancel:
            raise LeaseLost
        return job


class MemoryStore:
    """The double and what the suite does behind its port."""

    def __init__(self) -> None:
        self.attempts = MemoryAttempts(LEASE_SECONDS)

    def with_lease(self, seconds: float) -> AttemptStore:
        self.attempts.lease_seconds = seconds
        return self.attempts

    async def add(self, project_id: str) -> UUID:
        self.attempts.jobs.append(State(uuid4(), project_id))
        return self.attempts.jobs[-1].id

    async def state(self, job_id: UUID) -> State:
        return replace(self.attempts.find(job_id))

    async def finish(self, claim: Claim) -> None:
        self.attempts.finish(claim)

    async def lapse(self, job_id: UUID) -> None:
        self.attempts.find(job_id).leased_until = 0.0

    async def ask_to_cancel(self, job_id: UUID) -> None:
        """The request, whose nudge does not arrive."""
        self.attempts.find(job_id).to_cancel = True

    async def cancel(self, job_id: UUID) -> None:
        await self.ask_to_cancel(job_id)
        self.attempts.find(job_id).nudged.set()

    async def take_over(self, job_id: UUID) -> None:
        """Another worker finds the lease lapsed."""
        await self.lapse(job_id)
        assert await self.attempts.claim()


_TAKE_OVER = """
    UPDATE control_plane.jobs
       SET fence = fence + 1, dump_attempts = dump_attempts + 1, lease_until = now() + interval '1 min'
     WHERE id = $1
"""


class PostgresStore:
    """The same on the product's own store."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.attempts = self._attempts(LEASE_SECONDS)

    def _attempts(self, lease_seconds: float) -> Attempts:
        return Attempts(self.database, DUMP, service="exporter", owner="tester", lease_seconds=lease_seconds)

    def with_lease(self, seconds: float) -> AttemptStore:
        return self._attempts(seconds)

    async def add(self, project_id: str) -> UUID:
        return await add_job(self.database, project_id)

    async def state(self, job_id: UUID) -> State:
        return _state(await find(self.database, job_id))

    async def finish(self, claim: Claim) -> None:
        await dump(self.database, claim)

    async def lapse(self, job_id: UUID) -> None:
        async with self.database.pool.acquire() as connection:
            await lapse(connection, job_id)

    async def take_over(self, job_id: UUID) -> None:
        """In one statement, or the worker might take its own job again in between."""
        async with self.database.pool.acquire() as connection:
            assert await connection.execute(_TAKE_OVER, job_id) == "UPDATE 1"

    async def ask_to_cancel(self, job_id: UUID) -> None:
        await self.database.pool.execute(
            "UPDATE control_plane.jobs SET cancel_requested_at = now() WHERE id = $1", job_id
        )

    async def cancel(self, job_id: UUID) -> None:
        assert await cancel(self.database, job_id, actor="test")


def _state(job: Job) -> State:
    wait = (job.run_after - datetime.now(UTC)).total_seconds()
    return State(
        id=job.id,
        project_id=job.project_id,
        status=job.status,
        stage=job.stage,
        fence=job.fence,
        attempts=job.dump_attempts,
        error_code=job.error_code,
        progress=job.progress,
        run_after=time.monotonic() + wait,
    )


Store = MemoryStore | PostgresStore


@pytest.fixture(scope="module")
async def control_plane_url(
    postgres_server: PostgresServer, control_plane_template: str
) -> AsyncIterator[str]:
    """One database for all tests here, emptied before each that uses it."""
    async with copied_database(postgres_server, control_plane_template) as url:
        yield url


@pytest.fixture
async def postgres_store(control_plane: Database, connection: asyncpg.Connection) -> PostgresStore:
    await empty(connection)
    return PostgresStore(control_plane)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """What was logged; drawing tracebacks on a terminal nobody reads would cost a second each."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    found: PostgresStore = request.getfixturevalue("postgres_store")
    return found


@dataclass(slots=True)
class Line:
    """The way to a store, which may be down."""

    attempts: AttemptStore
    down: bool = False
    answers: int = 0  #: to claims

    async def claim(self) -> Claim | None:
        self._require()
        claim = await self.attempts.claim()
        self.answers += 1
        return claim

    async def answered(self, claims: int) -> None:
        async def reached() -> bool:
            return self.answers >= claims

        await eventually(reached)

    def watching(self, claim: Claim) -> AbstractContextManager[asyncio.Event]:
        return self.attempts.watching(claim)

    async def renew(self, claim: Claim, progress: Mapping[str, int]) -> None:
        self._require()
        await self.attempts.renew(claim, progress)

    async def retry(self, claim: Claim, retry: RetryAt) -> None:
        self._require()
        await self.attempts.retry(claim, retry)

    async def hand_back(self, claim: Claim, hand_back: HandBack) -> None:
        self._require()
        await self.attempts.hand_back(claim, hand_back)

    async def bury(self, claim: Claim, dead: Dead) -> None:
        self._require()
        await self.attempts.bury(claim, dead)

    async def obey_cancel(self, claim: Claim) -> None:
        self._require()
        await self.attempts.obey_cancel(claim)

    def _require(self) -> None:
        if self.down:
            raise Unavailable("database", "PostgreSQL is not reachable.")


def settings(**changes: str) -> WorkerSettings:
    environment = {
        "DATABASE_URL": "postgresql://nobody@localhost/nothing",
        "AMQP_URL": "amqp://localhost/",
        "PGFERRY_LEASE_SECONDS": "60",
        "PGFERRY_HEARTBEAT_SECONDS": "0.05",
        "PGFERRY_POLL_SECONDS": "0.02",
        "PGFERRY_RETRY_SCALE": "0.001",
        **changes,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return load(WorkerSettings)


@dataclass(slots=True)
class Running:
    stopping: Stopping
    wake: asyncio.Event
    task: asyncio.Task[None]
    discarded: list[UUID]

    async def stop(self) -> None:
        """SIGTERM, and the end of the worker."""
        self.stopping.set()
        await asyncio.wait_for(self.task, timeout=10)


@asynccontextmanager
async def working(
    attempts: AttemptStore,
    work: Work,
    *,
    slots: int = 1,
    needs: Dependencies | None = None,
    discard: Discard | None = None,
    **changes: str,
) -> AsyncIterator[Running]:
    """A worker beside the block; at its end it is stopped and must end in order."""
    needs = needs or Dependencies(waits=QUICKLY)
    wake, stopping, discarded = asyncio.Event(), Stopping(), list[UUID]()
    worker = Worker(
        attempts,
        work,
        wake,
        discard or discarded.append,
        settings(**changes),
        slots=slots,
        group=DUMP.value,
        needs=needs,
    )
    running = Running(stopping, wake, asyncio.create_task(worker.run(stopping)), discarded)
    try:
        yield running
    finally:
        await running.stop()


@dataclass(slots=True)
class Steps:
    """A work that does one step for each attempt: raises an error, or finishes the job."""

    store: Store
    steps: list[Exception | None]
    attempts: list[int] = field(default_factory=list)

    async def __call__(self, claim: Claim, _progress: Progress) -> None:
        self.attempts.append(claim.attempts)
        step = self.steps.pop(0)
        if step is not None:
            raise step
        await self.store.finish(claim)


@dataclass(slots=True)
class Endless:
    """A work that goes on until it is cancelled, and then says what it did in which order."""

    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    seconds: float = 0.0

    async def __call__(self, _claim: Claim, _progress: Progress) -> None:
        begin = time.monotonic()
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.seconds = time.monotonic() - begin
            self.ended.set()


async def ends(store: Store, job_id: UUID, **expected: object) -> State:
    """Wait until the job's state has all of these."""

    async def reached() -> bool:
        state = await store.state(job_id)
        return all(getattr(state, name) == value for name, value in expected.items())

    await eventually(reached)
    return await store.state(job_id)


def counted(outcome: str) -> float:
    labels = {"group": DUMP.value, "outcome": outcome}
    return REGISTRY.get_sample_value("pgferry_attempts_total", labels) or 0.0


TEMPORARY = TemporaryError("timeout", "It took too long.")


async def test_work_that_succeeds_is_done(store: Store) -> None:
    """Its own final transaction moved the job; the worker only counts it."""
    job_id, before = await store.add("acme"), counted("done")

    async with working(store.attempts, Steps(store, [None])):
        await ends(store, job_id, stage=Stage.DUMPED)

    assert counted("done") == before + 1


@pytest.mark.parametrize(
    ("error", "code"), [(TEMPORARY, "timeout"), (ZeroDivisionError(), "unexpected_error")]
)
async def test_what_may_pass_is_tried_again(
    store: Store, logs: list[EventDict], error: Exception, code: str
) -> None:
    """After its wait, as the next attempt; an error that nobody classified, too, with its traceback."""
    job_id, before = await store.add("acme"), counted("retry")
    work, begin = Steps(store, [error, None]), time.monotonic()

    async with working(store.attempts, work, PGFERRY_RETRY_SCALE="0.02"):
        state = await ends(store, job_id, stage=Stage.QUEUED, error_code=code)
        assert begin + 0.02 * 10 * 0.8 < state.run_after < time.monotonic() + 0.02 * 10 * 1.2
        await ends(store, job_id, stage=Stage.DUMPED)

    assert work.attempts == [1, 2]
    assert counted("retry") == before + 1
    [entry] = [entry for entry in logs if entry["event"] == "attempt failed"]
    assert (entry["code"], entry["exc_info"]) == (code, error if code == "unexpected_error" else None)


async def test_work_that_cancels_itself_is_no_drain(store: Store) -> None:
    """A library may let a cancellation escape: the slot lives on, and the attempt is spent."""
    job_id = await store.add("acme")

    async def cancels_itself(claim: Claim, _progress: Progress) -> None:
        if claim.attempts == 1:
            raise asyncio.CancelledError
        await store.finish(claim)

    async with working(store.attempts, cancels_itself):
        state = await ends(store, job_id, stage=Stage.DUMPED)

    assert state.attempts == 2


async def test_the_last_allowed_attempt_decides(store: Store) -> None:
    """The job fails with the code of that attempt."""
    job_id, before = await store.add("acme"), counted("dead")
    work = Steps(store, [ZeroDivisionError(), TEMPORARY])

    async with working(store.attempts, work, PGFERRY_ATTEMPTS="2"):
        await ends(store, job_id, status=Status.FAILED, error_code="timeout")

    assert work.attempts == [1, 2]
    assert counted("dead") == before + 1


async def test_what_cannot_pass_fails_at_once(store: Store) -> None:
    """No second attempt."""
    job_id = await store.add("acme")
    work = Steps(store, [PermanentError("invalid_slug", "The slug is invalid.")])

    async with working(store.attempts, work):
        await ends(store, job_id, status=Status.FAILED, error_code="invalid_slug")

    assert work.attempts == [1]


async def test_a_dependency_that_is_down_costs_nothing(store: Store) -> None:
    """However often: each attempt is given back, so each is the first."""
    job_id, before = await store.add("acme"), counted("hand_back")
    down = Unavailable("tenant_database", "The tenant's database is not reachable.")
    work = Steps(store, [down, down, down, down, None])

    async with working(store.attempts, work):
        await ends(store, job_id, stage=Stage.DUMPED)

    assert work.attempts == [1, 1, 1, 1, 1]
    assert counted("hand_back") == before + 4


async def test_all_slots_pause_for_what_one_has_lost(store: Store, logs: list[EventDict]) -> None:
    """Nothing is claimed until the probe answers: one probe at a time, and the log has two lines."""
    jobs = [await store.add(f"project-{number}") for number in range(6)]
    needs, tenants = Dependencies(waits=QUICKLY), Server()
    needs.probe_by("tenants", tenants.probe)
    begun: list[UUID] = []

    async def asks_the_tenants(claim: Claim, _progress: Progress) -> None:
        begun.append(claim.job_id)
        tenants.require()
        await store.finish(claim)

    async def probed() -> bool:
        return tenants.probes >= 10

    async with working(store.attempts, asks_the_tenants, slots=3, needs=needs):
        await eventually(probed)
        assert len(begun) <= 3
        assert needs.missing == ["tenants"]
        assert waiting_for("tenants") == 1
        tenants.down = False
        for job_id in jobs:
            await ends(store, job_id, stage=Stage.DUMPED, attempts=1)

    assert tenants.most_at_once == 1
    assert waiting_for("tenants") == 0
    told = [(entry["event"], entry["dependency"]) for entry in logs if "dependency" in entry]
    assert told == [("waiting", "tenants"), ("no longer waiting", "tenants")]


@dataclass(slots=True)
class Server:
    """What jobs need: down until somebody says otherwise."""

    down: bool = True
    probes: int = 0
    most_at_once: int = 0
    _now: int = 0

    def require(self) -> None:
        if self.down:
            raise Unavailable("tenants", "The server is not reachable.")

    async def probe(self) -> None:
        self.probes += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        self.require()


def waiting_for(dependency: str) -> float | None:
    return REGISTRY.get_sample_value("pgferry_dependency_missing", {"dependency": dependency})


async def test_a_pause_ends_at_once_when_the_worker_is_stopped(store: Store) -> None:
    """Neither the wait nor a probe that hangs is waited for; the job was handed back before."""
    job_id, asked = await store.add("acme"), asyncio.Event()
    needs = Dependencies(waits=QUICKLY)

    async def hangs() -> None:
        asked.set()
        await asyncio.Event().wait()

    needs.probe_by("x", hangs)
    async with working(store.attempts, Steps(store, [Unavailable("x", "Down.")]), needs=needs) as running:
        await asyncio.wait_for(asked.wait(), timeout=30)
        begin = time.monotonic()
        await running.stop()
        assert time.monotonic() - begin < 5

    state = await store.state(job_id)
    assert (state.stage, state.attempts, state.error_code) == (Stage.QUEUED, 0, "x_unavailable")


async def test_attempts_whose_workers_died_are_used_up(store: Store) -> None:
    """Whoever claims the job after them does not begin the work that kills, but buries the job."""
    job_id = await store.add("acme")
    assert await store.attempts.claim()
    for _ in range(2):
        await store.take_over(job_id)
    await store.lapse(job_id)
    work = Steps(store, [])

    async with working(store.attempts, work, PGFERRY_ATTEMPTS="3"):
        await ends(store, job_id, status=Status.FAILED, error_code="attempts_exhausted")

    assert work.attempts == []
    assert (await store.state(job_id)).attempts == 3  # the claim that says so is none


async def test_a_worker_that_was_superseded_stops(store: Store) -> None:
    """The next heartbeat finds the fence moved on: the work is ended, the job is the other worker's."""
    job_id, before, work = await store.add("acme"), counted("lease_lost"), Endless()

    async with working(store.attempts, work):
        await work.began.wait()
        await store.take_over(job_id)
        await asyncio.wait_for(work.ended.wait(), timeout=5)

    state = await store.state(job_id)
    assert (state.status, state.stage, state.fence) == (Status.RUNNING, Stage.DUMPING, 2)
    assert state.error_code is None
    assert counted("lease_lost") == before + 1


async def test_a_worker_that_cannot_renew_stops_before_another_may_begin(store: Store) -> None:
    """By its own clock, counted from before the last success; the work has ended when the lease lapses."""
    job_id, work = await store.add("acme"), Endless()
    line = Line(store.with_lease(1.8))

    async with working(line, work, PGFERRY_LEASE_SECONDS="1.8"):
        await work.began.wait()
        line.down = True
        await asyncio.wait_for(work.ended.wait(), timeout=5)
        assert 1.0 < work.seconds < 2.3
        assert (await store.state(job_id)).stage is Stage.DUMPING


async def test_a_renewal_that_cannot_be_ended_does_not_outlast_the_lease(store: Store) -> None:
    """As one at a server that says nothing any more, whose cancel hangs as it does."""
    work, gives_in = Endless(), asyncio.Event()
    await store.add("acme")

    class Clinging(Line):
        async def renew(self, claim: Claim, progress: Mapping[str, int]) -> None:  # noqa: ARG002
            try:
                await asyncio.Event().wait()
            finally:
                await gives_in.wait()

    async with working(Clinging(store.with_lease(0.6)), work, PGFERRY_LEASE_SECONDS="0.6"):
        await work.began.wait()
        await asyncio.wait_for(work.ended.wait(), timeout=30)
    gives_in.set()


async def test_a_short_outage_is_survived(store: Store) -> None:
    """A heartbeat that fails is tried again while the lease lives."""
    job_id, work, goes_on = await store.add("acme"), Endless(), asyncio.Event()
    line = Line(store.with_lease(0.75))

    async def finishes(claim: Claim, _progress: Progress) -> None:
        work.began.set()
        await goes_on.wait()
        await store.finish(claim)

    async with working(line, finishes, PGFERRY_LEASE_SECONDS="0.75", PGFERRY_HEARTBEAT_SECONDS="0.1"):
        await work.began.wait()
        for down in (True, False):
            line.down = down
            begin = time.monotonic()
            await eventually(partial(_past, begin + 0.45))
        goes_on.set()
        state = await ends(store, job_id, stage=Stage.DUMPED)

    assert (state.attempts, state.fence) == (1, 1)


async def _past(moment: float) -> bool:
    return time.monotonic() > moment


async def test_a_drain_hands_long_work_back(store: Store) -> None:
    """After the drain time the work is ended first, then the job is given back without cost."""
    job_id, work = await store.add("acme"), Endless()

    async with working(store.attempts, work, PGFERRY_DRAIN_SECONDS="0.3") as running:
        await work.began.wait()
        running.stopping.set()
        await asyncio.wait_for(running.task, timeout=5)

    state = await store.state(job_id)
    assert work.seconds >= 0.3
    assert (state.stage, state.attempts, state.error_code) == (Stage.QUEUED, 0, None)


async def test_a_job_that_is_claimed_while_the_worker_stops_is_handed_back(store: Store) -> None:
    """The claim was on its way when SIGTERM came; nothing is begun, nothing is spent."""
    job_id, stopping = await store.add("acme"), Stopping()

    class StopsMeanwhile(Line):
        async def claim(self) -> Claim | None:
            claim = await super().claim()
            stopping.set()
            return claim

    work = Steps(store, [])
    line, wake = StopsMeanwhile(store.attempts), asyncio.Event()
    worker = Worker(line, work, wake, lambda _job_id: None, settings(), slots=1, group=DUMP.value)
    await asyncio.wait_for(worker.run(stopping), timeout=5)

    state = await store.state(job_id)
    assert work.attempts == []
    assert (state.stage, state.fence, state.attempts) == (Stage.QUEUED, 1, 0)


async def test_a_claim_on_its_way_is_handed_back_even_without_a_drain_time(store: Store) -> None:
    """The answer comes after the slot was cancelled: else the job would wait for its lease."""
    job_id, asked, may_answer = await store.add("acme"), asyncio.Event(), asyncio.Event()

    class Slow(Line):
        async def claim(self) -> Claim | None:
            claim = await super().claim()
            asked.set()
            await may_answer.wait()
            return claim

    line = Slow(store.attempts)
    async with working(line, Steps(store, []), PGFERRY_DRAIN_SECONDS="0") as running:
        await asked.wait()
        running.stopping.ask()
        asyncio.get_running_loop().call_later(0.3, may_answer.set)
        await asyncio.wait_for(running.task, timeout=10)

    state = await store.state(job_id)
    assert (state.stage, state.fence, state.attempts) == (Stage.QUEUED, 1, 0)


async def test_a_second_signal_does_not_wait_for_the_drain(store: Store) -> None:
    """What is in hand is handed back now."""
    job_id, work = await store.add("acme"), Endless()

    async with working(store.attempts, work, PGFERRY_DRAIN_SECONDS="600") as running:
        await work.began.wait()
        running.stopping.ask()
        running.stopping.ask()
        await asyncio.wait_for(running.task, timeout=10)

    state = await store.state(job_id)
    assert (state.stage, state.attempts) == (Stage.QUEUED, 0)


async def test_a_drain_with_the_database_away_ends_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job cannot be handed back: its lease says it. Nor does the end wait for the attempt's own end."""
    monkeypatch.setattr("shared.runtime.worker.SETTLE_SECONDS", 0.3)
    job_id, work, gives_in = await store.add("acme"), Endless(), asyncio.Event()

    class Silent(Line):
        async def hand_back(self, claim: Claim, hand_back: HandBack) -> None:  # noqa: ARG002
            try:
                await asyncio.Event().wait()
            finally:
                await gives_in.wait()

    async with working(Silent(store.attempts), work, PGFERRY_DRAIN_SECONDS="0") as running:
        await work.began.wait()
        running.stopping.ask()
        await asyncio.wait_for(running.task, timeout=30)
    gives_in.set()

    assert (await store.state(job_id)).stage is Stage.DUMPING


async def test_a_drain_keeps_what_went_wrong_before(store: Store) -> None:
    """The attempt before it failed; being stopped is no failure, and hides none."""
    job_id, began, failed = await store.add("acme"), asyncio.Event(), list[None]()

    async def fails_once(_claim: Claim, _progress: Progress) -> None:
        if not failed:
            failed.append(None)
            raise TEMPORARY
        began.set()
        await asyncio.Event().wait()

    async with working(store.attempts, fails_once, PGFERRY_DRAIN_SECONDS="0"):
        await asyncio.wait_for(began.wait(), timeout=5)

    state = await store.state(job_id)
    assert (state.stage, state.attempts, state.error_code) == (Stage.QUEUED, 1, "timeout")


# Cancelling


async def test_a_cancel_stops_the_work_at_once(store: Store) -> None:
    """By the nudge, long before the heartbeat; first the work ends, then the job, then its files."""
    job_id, before, work = await store.add("acme"), counted("cancelled"), Endless()

    async with working(store.attempts, work, PGFERRY_HEARTBEAT_SECONDS="20") as running:
        await work.began.wait()
        await store.cancel(job_id)
        await ends(store, job_id, status=Status.CANCELLED, error_code="cancelled")
        assert work.ended.is_set()

    assert work.seconds < 2
    assert running.discarded == [job_id]
    assert counted("cancelled") == before + 1


async def test_a_disk_that_hangs_does_not_hold_up_a_slot(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cancelled job has in the spool is left to the sweeper."""
    monkeypatch.setattr("shared.runtime.spool_calls.FROZEN_SECONDS", 0.1)
    job_id, before, work, thaws = await store.add("acme"), counted("cancelled"), Endless(), threading.Event()

    def hangs(_job_id: UUID) -> None:
        thaws.wait()

    async def settled() -> bool:
        return counted("cancelled") == before + 1

    async with working(store.attempts, work, discard=hangs):
        await work.began.wait()
        await store.cancel(job_id)
        await eventually(settled)
    thaws.set()


async def test_a_cancel_whose_nudge_was_lost_is_seen_at_the_heartbeat(store: Store) -> None:
    """The nudge is only a hint."""
    job_id, work = await store.add("acme"), Endless()

    async with working(store.attempts, work):
        await work.began.wait()
        await store.ask_to_cancel(job_id)
        await ends(store, job_id, status=Status.CANCELLED, stage=Stage.DUMPING)


@pytest.mark.parametrize("error", [TEMPORARY, PermanentError("code", "No."), Unavailable("x", "Down.")])
async def test_a_cancel_comes_before_however_else_the_attempt_ends(store: Store, error: Exception) -> None:
    """It was asked for before the work failed: the job is neither tried again nor failed."""
    job_id = await store.add("acme")

    async def fails(_claim: Claim, _progress: Progress) -> None:
        await store.ask_to_cancel(job_id)
        raise error

    async with working(store.attempts, fails, PGFERRY_HEARTBEAT_SECONDS="20"):
        await ends(store, job_id, status=Status.CANCELLED)


async def test_a_cancel_comes_before_a_dump_that_is_not_recorded_yet(store: Store) -> None:
    """The final transaction finds the request and is refused; the job ends as was asked."""
    job_id, before = await store.add("acme"), counted("lease_lost")

    async def finishes(claim: Claim, progress: Progress) -> None:
        progress.recording = True
        await store.cancel(job_id)
        await store.finish(claim)

    async with working(store.attempts, finishes):
        await ends(store, job_id, status=Status.CANCELLED)

    assert counted("lease_lost") == before


async def test_a_stopped_worker_cancels_what_was_to_be_cancelled(store: Store) -> None:
    """A drain gives nothing back that nobody may have."""
    job_id, work = await store.add("acme"), Endless()

    async with working(
        store.attempts, work, PGFERRY_HEARTBEAT_SECONDS="20", PGFERRY_DRAIN_SECONDS="0"
    ) as running:
        await work.began.wait()
        await store.ask_to_cancel(job_id)

    assert (await store.state(job_id)).status is Status.CANCELLED
    assert running.discarded == [job_id]


async def test_a_lost_lease_discards_nothing(store: Store) -> None:
    """The files are the successor's now."""
    job_id, work = await store.add("acme"), Endless()

    async with working(store.attempts, work) as running:
        await work.began.wait()
        await store.take_over(job_id)
        await asyncio.wait_for(work.ended.wait(), timeout=5)

    assert running.discarded == []


async def test_a_drain_lets_quick_work_finish(store: Store) -> None:
    """And nothing new is begun, though another job waits."""
    job_id, other_id = await store.add("acme"), await store.add("globex")
    began, may_finish = asyncio.Event(), asyncio.Event()

    async def finishes(claim: Claim, _progress: Progress) -> None:
        began.set()
        await may_finish.wait()
        await store.finish(claim)

    async with working(store.attempts, finishes) as running:
        await began.wait()
        running.stopping.set()
        may_finish.set()
        await asyncio.wait_for(running.task, timeout=5)

    assert (await store.state(job_id)).stage is Stage.DUMPED
    assert (await store.state(other_id)).status is Status.PENDING


async def test_an_idle_worker_stops_at_once(store: Store) -> None:
    """It does not wait for its poll, nor for the drain time."""
    line = Line(store.attempts)

    async with working(line, Steps(store, []), slots=3, PGFERRY_POLL_SECONDS="60") as running:
        await line.answered(3)
        begin = time.monotonic()
        await running.stop()

    assert time.monotonic() - begin < 1


async def test_the_heartbeat_shows_progress(store: Store) -> None:
    """Whoever asks for the job sees how far it is, a heartbeat later."""
    job_id, began = await store.add("acme"), asyncio.Event()

    async def reports(_claim: Claim, progress: Progress) -> None:
        progress.counts["rows"] = 17
        began.set()
        await asyncio.Event().wait()

    async with working(store.attempts, reports, PGFERRY_DRAIN_SECONDS="0"):
        await ends(store, job_id, progress={"rows": 17})


async def test_slots_work_side_by_side(store: Store) -> None:
    """As many jobs at once as slots, no more; the others follow."""
    jobs = [await store.add(f"project-{number}") for number in range(5)]
    begun: list[UUID] = []
    may_finish = asyncio.Event()

    async def waits(claim: Claim, _progress: Progress) -> None:
        begun.append(claim.job_id)
        await may_finish.wait()
        await store.finish(claim)

    async def two_have_begun() -> bool:
        return len(begun) >= 2

    async with working(store.attempts, waits, slots=2):
        await eventually(two_have_begun)
        await eventually(partial(_past, time.monotonic() + 0.3))  # fifteen polls
        assert len(begun) == 2
        may_finish.set()
        for job_id in jobs:
            await ends(store, job_id, stage=Stage.DUMPED)


async def test_a_nudge_wakes_an_idle_slot(store: Store) -> None:
    """A slot that polls each minute begins at once."""
    line = Line(store.attempts)

    async with working(line, Steps(store, [None]), PGFERRY_POLL_SECONDS="60") as running:
        await line.answered(1)
        job_id = await store.add("acme")
        running.wake.set()
        await ends(store, job_id, stage=Stage.DUMPED)


async def test_a_worker_outlives_an_outage_while_idle(store: Store) -> None:
    """A claim that cannot be made is a wait."""
    job_id, line = await store.add("acme"), Line(store.attempts, down=True)

    async with working(line, Steps(store, [None])) as running:
        await asyncio.sleep(0.1)
        assert not running.task.done()
        line.down = False
        await ends(store, job_id, stage=Stage.DUMPED)


async def test_an_end_that_cannot_be_written_is_left_to_the_lease(store: Store) -> None:
    """The slot goes on; the job looks held until its lease lapses."""
    job_id, line, before = await store.add("acme"), Line(store.attempts), counted("lease_lost")

    async def fails(_claim: Claim, _progress: Progress) -> None:
        line.down = True
        raise TEMPORARY

    async def lost() -> bool:
        return counted("lease_lost") == before + 1

    async with working(line, fails):
        await eventually(lost)
    assert (await store.state(job_id)).stage is Stage.DUMPING


async def test_a_mistake_in_the_store_ends_the_worker(store: Store) -> None:
    """It is no outage: the process must end and say so, not claim in a circle."""

    class Broken(Line):
        async def claim(self) -> Claim | None:
            raise ZeroDivisionError

    worker = Worker(
        Broken(store.attempts),
        Steps(store, []),
        asyncio.Event(),
        discard=lambda _job_id: None,
        settings=settings(),
        slots=2,
        group=DUMP.value,
    )
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(worker.run(Stopping()), timeout=5)
