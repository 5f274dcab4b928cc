"""The life of a job in PostgreSQL: who may claim it, who may still write, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import pytest

from sandbox.postgres import PostgresServer
from shared.contracts.errors import LeaseLost, Unavailable
from shared.contracts.job import HALVES, MOVES, Claim, Stage, StageGroup, Status
from shared.contracts.messages import BackupFailed
from shared.contracts.topology import DEAD, EVENTS
from shared.contracts.verdict import Dead, HandBack, RetryAt
from shared.storage.attempts import Attempts
from shared.storage.cancel import cancel
from shared.storage.database import Database
from shared.storage.jobs import CLAIM_ALONE
from shared.storage.nudges import DUMP as NUDGE_DUMP
from shared.storage.nudges import UPLOAD as NUDGE_UPLOAD
from shared.storage.parts import Kind
from tests.integration.jobs_in import (
    add_job,
    claim,
    claimed_upload,
    copied_database,
    dump,
    dump_of,
    empty,
    find,
    held_job,
    lapse,
    make_due,
    must_claim,
    outbox_refuses,
    parts_of,
    requeue,
    rows_of,
    sent_as,
)
from tests.waiting import eventually

DUMP, UPLOAD = StageGroup.DUMP, StageGroup.UPLOAD
BOTH = pytest.mark.parametrize("group", StageGroup)

_WATCH = """
    CREATE TABLE public.moves (old_status text, old_stage text, new_status text, new_stage text);
    CREATE FUNCTION public.note_move() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.moves VALUES (OLD.status, OLD.stage, NEW.status, NEW.stage); RETURN NEW; END
    $$;
    CREATE TRIGGER note_move AFTER UPDATE ON control_plane.jobs FOR EACH ROW
        WHEN ((OLD.status, OLD.stage, OLD.fence) IS DISTINCT FROM (NEW.status, NEW.stage, NEW.fence))
        EXECUTE FUNCTION public.note_move();
"""

Move = tuple[tuple[Status, Stage], tuple[Status, Stage]]
Moves = Callable[[], Awaitable[set[Move]]]


@pytest.fixture(scope="module")
async def control_plane_url(
    postgres_server: PostgresServer, control_plane_template: str
) -> AsyncIterator[str]:
    """One database for all tests here, where each move of a job is noted."""
    async with copied_database(postgres_server, control_plane_template) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(_WATCH)
        await connection.close()
        yield url


@pytest.fixture(autouse=True)
async def moves(control_plane_url: str, connection: asyncpg.Connection) -> AsyncIterator[Moves]:
    """The moves that jobs have made so far; in every test here, each must be one the contract allows."""
    await empty(connection)
    await connection.execute("DELETE FROM public.moves")

    async def seen() -> set[Move]:
        connection = await asyncpg.connect(control_plane_url)
        records = await connection.fetch("SELECT DISTINCT * FROM public.moves")
        await connection.close()
        return {
            ((Status(old_status), Stage(old_stage)), (Status(new_status), Stage(new_stage)))
            for old_status, old_stage, new_status, new_stage in records
        }

    yield seen
    assert await seen() <= MOVES


def attempts_of(database: Database, group: StageGroup = DUMP) -> Attempts:
    return Attempts(database, group, service="exporter", owner="tester", lease_seconds=60)


async def complete(database: Database, project_id: str) -> None:
    """A job of this project from its beginning to its end."""
    await add_job(database, project_id)
    await dump(database, await must_claim(database))
    held = await must_claim(database, UPLOAD)
    async with database.transaction() as transaction:
        await transaction.jobs.stored(held, backup_id=uuid4())


async def claimed_projects(database: Database) -> list[str]:
    """Claim until nothing is left."""
    projects = []
    while (held := await claim(database)) is not None:
        projects.append(held.project_id)
    return projects


# Claims


async def test_urgent_jobs_are_claimed_first(control_plane: Database) -> None:
    """Priority comes before everything else."""
    await add_job(control_plane, "first")
    await add_job(control_plane, "urgent", priority="high")
    await add_job(control_plane, "second")

    assert await claimed_projects(control_plane) == ["urgent", "first", "second"]


async def test_the_project_that_waited_longest_for_a_start_is_next(control_plane: Database) -> None:
    """First a project that never ran, then the one whose last start is oldest, however early it asked."""
    await complete(control_plane, "ran-first")
    await complete(control_plane, "ran-last")
    for project in ("ran-last", "ran-first", "never-ran"):
        await add_job(control_plane, project)

    assert await claimed_projects(control_plane) == ["never-ran", "ran-first", "ran-last"]


async def test_among_equals_the_job_that_is_due_longest_is_next(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """`run_after` decides last, and a job whose time has not come is not claimed at all."""
    for project, seconds in (("late", 10), ("early", 20), ("not-yet", -60)):
        job_id = await add_job(control_plane, project)
        await connection.execute(
            "UPDATE control_plane.jobs SET run_after = now() - make_interval(secs => $2) WHERE id = $1",
            job_id,
            seconds,
        )

    assert await claimed_projects(control_plane) == ["early", "late"]


async def test_a_claim_gives_the_job_with_a_lease_and_a_fence(control_plane: Database) -> None:
    """The claim holds what the worker needs; the row says who has it."""
    job_id = await add_job(control_plane, caption="for the tax office")

    held = await must_claim(control_plane)
    job = await find(control_plane, job_id)

    assert (held.job_id, held.fence, held.attempts) == (job_id, 1, 1)
    assert held.options.caption == "for the tax office"
    assert held.application_name == f"pgferry:{job_id}:1"
    assert (job.status, job.stage, job.dump_attempts) == (Status.RUNNING, Stage.DUMPING, 1)
    assert await claim(control_plane) is None


async def test_a_project_runs_one_job_at_a_time(control_plane: Database) -> None:
    """A second job of the project waits through dump and upload of the first, then is claimable."""
    await add_job(control_plane)
    await add_job(control_plane, format="tar")
    held = await must_claim(control_plane)
    assert await claim(control_plane) is None

    await dump(control_plane, held)
    assert await claim(control_plane) is None

    upload = await must_claim(control_plane, UPLOAD)
    assert await claim(control_plane) is None

    async with control_plane.transaction() as transaction:
        await transaction.jobs.stored(upload, backup_id=uuid4())
    assert (await must_claim(control_plane)).options.format == "tar"


async def test_a_retry_wait_keeps_the_project(control_plane: Database) -> None:
    """A running job that waits for its next attempt does not let another of its project begin."""
    await add_job(control_plane)
    await add_job(control_plane, format="tar")
    held = await must_claim(control_plane)

    await attempts_of(control_plane).retry(held, RetryAt(60, "timeout", "It took too long."))

    assert await claim(control_plane) is None


async def test_concurrent_claims_never_share_a_job_or_a_project(control_plane: Database) -> None:
    """Twenty at once: each job goes to one, each project to one, and nobody goes empty-handed for a race."""
    for project in range(8):
        for form in ("sql", "tar"):
            await add_job(control_plane, f"project-{project}", format=form)

    claims = [held for held in await asyncio.gather(*(claim(control_plane) for _ in range(20))) if held]

    assert sorted(held.project_id for held in claims) == [f"project-{number}" for number in range(8)]
    assert len({held.job_id for held in claims}) == len(claims)


async def test_a_claim_that_loses_its_project_to_another_takes_the_next_job(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """It chose the second job of a project whose first was just claimed: no reason to wait for a poll."""
    for project, form in (("contested", "sql"), ("contested", "tar"), ("other", "sql")):
        await add_job(control_plane, project, format=form)
    await connection.execute("UPDATE control_plane.jobs SET run_after = now() WHERE project_id = 'other'")

    async with asyncio.TaskGroup() as tasks, control_plane.transaction() as transaction:
        assert await transaction.jobs.claim(DUMP, owner="winner", lease_seconds=60)
        loser = tasks.create_task(claim(control_plane))
        await eventually(partial(_somebody_waits_for_a_lock, connection))

    held = loser.result()
    assert held is not None
    assert held.project_id == "other"


async def _somebody_waits_for_a_lock(connection: asyncpg.Connection) -> bool:
    return await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)") is True


async def test_all_processes_together_hold_no_more_than_the_server_takes(control_plane: Database) -> None:
    """However many claim at once."""
    for project in range(8):
        await add_job(control_plane, f"project-{project}")

    claims = await asyncio.gather(*(claim(control_plane, at_most=3) for _ in range(10)))

    assert sum(held is not None for held in claims) == 3
    assert await claim(control_plane, at_most=3) is None
    assert await claim(control_plane, at_most=4) is not None


async def test_a_process_that_freezes_while_it_claims_does_not_keep_others_from_it(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Its session is ended, and with it the lock under which claims are counted."""
    await add_job(control_plane)
    await connection.execute("BEGIN")
    await connection.execute(CLAIM_ALONE)

    assert await claim(control_plane, at_most=1) is not None


@pytest.mark.parametrize("ends", ["dumped", "failed", "put back", "lapsed", "cancelled"])
async def test_the_best_job_has_the_next_free_place(
    control_plane: Database, connection: asyncpg.Connection, ends: str
) -> None:
    """However the one before it ended; what waited for a place has spent nothing and is told of it."""
    await add_job(control_plane, "first")
    held = await must_claim(control_plane)
    waiting = await add_job(control_plane, "waits")
    assert await claim(control_plane, at_most=1) is None
    urgent = await add_job(control_plane, "urgent", priority="high")
    told = control_plane.nudges.event(NUDGE_DUMP)
    told.clear()

    match ends:
        case "dumped":
            await dump(control_plane, held)
        case "failed":
            await _bury(control_plane, held)
        case "put back":
            await attempts_of(control_plane).retry(held, RetryAt(60, "timeout", "It took too long."))
        case "lapsed":
            await lapse(connection, held.job_id)
            told.set()  # nobody was there to tell: it is found by the poll
        case "cancelled":
            await cancel(control_plane, held.job_id, actor="test")
            await attempts_of(control_plane).obey_cancel(held)
    next_held = await claim(control_plane, at_most=1)

    assert told.is_set()
    assert next_held is not None
    assert next_held.job_id == urgent
    assert await claim(control_plane, at_most=1) is None
    assert (await find(control_plane, waiting)).fence == 0


async def test_a_full_server_does_not_stop_the_uploads(control_plane: Database) -> None:
    """The cap is that of dumps."""
    await add_job(control_plane, "dumped")
    await dump(control_plane, await must_claim(control_plane))
    await add_job(control_plane, "held")
    await must_claim(control_plane)

    assert await claim(control_plane, at_most=1) is None
    assert await claim(control_plane, UPLOAD) is not None


@BOTH
async def test_a_job_that_is_handed_back_is_told_to_those_who_wait(
    control_plane: Database, group: StageGroup
) -> None:
    """Another process may begin it at once."""
    held = await held_job(control_plane, group)
    told = control_plane.nudges.event(NUDGE_DUMP if group is DUMP else NUDGE_UPLOAD)
    told.clear()

    await attempts_of(control_plane, group).hand_back(held, HandBack())

    assert told.is_set()
    assert (await find(control_plane, held.job_id)).error_code is None


# Leases and fences


@BOTH
async def test_a_lapsed_lease_is_taken_over(
    control_plane: Database, connection: asyncpg.Connection, group: StageGroup
) -> None:
    """Whoever comes next gets the job with the next fence; the dead worker's attempt is spent."""
    first = await held_job(control_plane, group)
    assert await claim(control_plane, group) is None
    await lapse(connection, first.job_id)

    second = await must_claim(control_plane, group)

    assert (second.job_id, second.fence, second.attempts) == (first.job_id, first.fence + 1, 2)
    assert second.dump_fence == first.dump_fence


async def test_a_heartbeat_lengthens_the_lease_and_shows_progress(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """The lease lasts its full time again, on the database's clock."""
    job_id = await add_job(control_plane)
    held = await must_claim(control_plane)
    left = "SELECT extract(epoch FROM lease_until - now())::float8 FROM control_plane.jobs"
    await connection.execute("UPDATE control_plane.jobs SET lease_until = now() + interval '1 second'")

    await attempts_of(control_plane).renew(held, {"rows": 10})

    assert 55 < await connection.fetchval(left) <= 60
    assert (await find(control_plane, job_id)).progress == {"rows": 10}


Write = Callable[[Database, Claim], Awaitable[object]]


async def _renew(database: Database, held: Claim) -> None:
    await attempts_of(database, held.group).renew(held, {"rows": 1})


async def _dumped(database: Database, held: Claim) -> None:
    await dump(database, held)


async def _stored(database: Database, held: Claim) -> None:
    async with database.transaction() as transaction:
        await transaction.jobs.stored(held, backup_id=uuid4())


async def _retry(database: Database, held: Claim) -> None:
    await attempts_of(database, held.group).retry(held, RetryAt(1, "code", "sentence"))


async def _retry_from_dump(database: Database, held: Claim) -> None:
    await attempts_of(database, held.group).retry(held, RetryAt(1, "code", "sentence", from_dump=True))


async def _hand_back(database: Database, held: Claim) -> None:
    await attempts_of(database, held.group).hand_back(held, HandBack("code", "sentence"))


async def _bury(database: Database, held: Claim) -> None:
    await attempts_of(database, held.group).bury(held, Dead("code", "sentence"))


async def _failed(database: Database, held: Claim) -> None:
    async with database.transaction() as transaction:
        await transaction.jobs.failed(held, code="code", sentence="sentence")


async def _plan(database: Database, held: Claim) -> None:
    async with database.transaction() as transaction:
        await transaction.parts.plan(held, Kind.MANIFEST, parts_of(1))


async def _sending(database: Database, held: Claim) -> None:
    async with database.transaction() as transaction:
        await transaction.parts.sending(held, Kind.PART, 1, bot_id=7, chat_id=-100)


async def _sent(database: Database, held: Claim) -> None:
    async with database.transaction() as transaction:
        await transaction.parts.sent(held, Kind.PART, 0, sent=sent_as(5))


WRITES = [
    *((DUMP, write) for write in (_renew, _dumped, _retry, _hand_back, _bury, _failed)),
    *((UPLOAD, write) for write in (_renew, _stored, _retry, _retry_from_dump, _hand_back, _bury, _failed)),
    *((UPLOAD, write) for write in (_plan, _sending, _sent)),
]


async def _with_parts(database: Database, group: StageGroup) -> Claim:
    """A held job; in an upload part 0 is on its way and part 1 is planned."""
    held = await held_job(database, group)
    if group is UPLOAD:
        async with database.transaction() as transaction:
            await transaction.parts.plan(held, Kind.PART, parts_of(2))
            await transaction.parts.sending(held, Kind.PART, 0, bot_id=7, chat_id=-100)
    return held


@pytest.mark.parametrize(("group", "write"), WRITES)
async def test_a_worker_that_holds_the_job_may_write(
    control_plane: Database, connection: asyncpg.Connection, group: StageGroup, write: Write
) -> None:
    """The counterpart of the next two tests: with a live lease each of these writes changes something."""
    held = await _with_parts(control_plane, group)
    before = await rows_of(connection)

    await write(control_plane, held)

    assert await rows_of(connection) != before


@pytest.mark.parametrize(("group", "write"), WRITES)
async def test_a_superseded_worker_changes_nothing(
    control_plane: Database, connection: asyncpg.Connection, group: StageGroup, write: Write
) -> None:
    """Its fence is old: another worker holds the job by now."""
    held = await _with_parts(control_plane, group)
    await lapse(connection, held.job_id)
    await must_claim(control_plane, group)
    before = await rows_of(connection)

    with pytest.raises(LeaseLost):
        await write(control_plane, held)

    assert await rows_of(connection) == before


@pytest.mark.parametrize(("group", "write"), WRITES)
async def test_a_worker_whose_lease_has_lapsed_changes_nothing(
    control_plane: Database, connection: asyncpg.Connection, group: StageGroup, write: Write
) -> None:
    """Nobody has taken over yet, but somebody may at any moment."""
    held = await _with_parts(control_plane, group)
    await lapse(connection, held.job_id)
    before = await rows_of(connection)

    with pytest.raises(LeaseLost):
        await write(control_plane, held)

    assert await rows_of(connection) == before


# How an attempt ends


async def test_a_dump_is_recorded_under_the_fence_that_made_it(control_plane: Database) -> None:
    """The uploader has another fence, and knows the dump's."""
    job_id = await add_job(control_plane)
    held = await must_claim(control_plane)

    made = await dump(control_plane, held)
    job = await find(control_plane, job_id)
    upload = await must_claim(control_plane, UPLOAD)

    assert (job.status, job.stage, job.dump_fence) == (Status.RUNNING, Stage.DUMPED, held.fence)
    assert job.dump is not None
    assert job.dump.rows == made.rows
    assert (upload.fence, upload.dump_fence, upload.attempts) == (held.fence + 1, held.fence, 1)


@BOTH
async def test_a_hand_back_gives_the_attempt_back(control_plane: Database, group: StageGroup) -> None:
    """The next claim is the same attempt, with a higher fence; a hand-back is no failure."""
    held = await held_job(control_plane, group)

    await attempts_of(control_plane, group).hand_back(held, HandBack("drained", "The worker was stopped."))
    job = await find(control_plane, held.job_id)
    again = await must_claim(control_plane, group)

    assert job.stage is HALVES[group].waiting
    assert (job.first_failed_at, job.last_failed_at) == (None, None)
    assert (again.attempts, again.fence) == (held.attempts, held.fence + 1)


async def test_what_was_handed_back_keeps_its_rank(control_plane: Database) -> None:
    """A start that was none is not the project's last start; after a retry the others come first."""
    for project in ("first", "second", "third"):
        await add_job(control_plane, project)
    first, second = await must_claim(control_plane), await must_claim(control_plane)

    await attempts_of(control_plane, DUMP).hand_back(second, HandBack("x_unavailable", "Down."))
    await attempts_of(control_plane, DUMP).retry(first, RetryAt(0, "timeout", "It took too long."))

    assert await claimed_projects(control_plane) == ["second", "third", "first"]


@BOTH
async def test_a_retry_waits_for_its_time(
    control_plane: Database, connection: asyncpg.Connection, group: StageGroup
) -> None:
    """The job keeps its reason, is claimable after the delay and not before, and the attempt is spent."""
    held = await held_job(control_plane, group)

    await attempts_of(control_plane, group).retry(held, RetryAt(40, "timeout", "It took too long."))
    job = await find(control_plane, held.job_id)

    assert (job.status, job.stage) == (Status.RUNNING, HALVES[group].waiting)
    assert (job.error_code, job.error_message) == ("timeout", "It took too long.")
    assert 35 < (job.run_after - datetime.now(UTC)).total_seconds() <= 41
    assert job.first_failed_at == job.last_failed_at is not None
    assert await claim(control_plane, group) is None
    await make_due(connection, held.job_id)
    assert (await must_claim(control_plane, group)).attempts == held.attempts + 1


async def test_the_progress_of_a_failed_attempt_is_forgotten(control_plane: Database) -> None:
    """A job that waits does not look as if somebody worked on it."""
    job_id = await add_job(control_plane)
    held = await must_claim(control_plane)
    await attempts_of(control_plane).renew(held, {"rows": 10})

    await attempts_of(control_plane).retry(held, RetryAt(40, "timeout", "It took too long."))

    assert (await find(control_plane, job_id)).progress is None


async def test_a_lost_dump_is_made_again(control_plane: Database, connection: asyncpg.Connection) -> None:
    """With fresh attempts, however many it took: those at the upload limit how often it may be lost."""
    held = await claimed_upload(control_plane)
    await connection.execute("UPDATE control_plane.jobs SET dump_attempts = 3")

    await attempts_of(control_plane, UPLOAD).retry(
        held, RetryAt(0, "spool_part_damaged", "Part 0 is missing in the spool.", from_dump=True)
    )
    await make_due(connection, held.job_id)
    again = await must_claim(control_plane)

    assert await claim(control_plane, UPLOAD) is None
    assert (again.job_id, again.attempts, again.fence) == (held.job_id, 1, held.fence + 1)
    assert (await find(control_plane, held.job_id)).upload_attempts == 1


async def test_a_job_that_is_given_up_says_so_to_everybody(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """One transaction: the row, the event, and the dead letter with the original command."""
    job_id = await add_job(control_plane, caption="yearly")
    first = await must_claim(control_plane)
    await attempts_of(control_plane).retry(first, RetryAt(0, "timeout", "It took too long."))
    held = await must_claim(control_plane)
    await connection.execute("DELETE FROM control_plane.outbox")

    await attempts_of(control_plane).bury(held, Dead("schema_missing", "There is no schema tenant_acme."))
    job = await find(control_plane, job_id)
    sent = {row["exchange"]: row for row in await connection.fetch("SELECT * FROM control_plane.outbox")}

    assert (job.status, job.error_code) == (Status.FAILED, "schema_missing")
    assert set(sent) == {EVENTS, DEAD}
    event = BackupFailed.model_validate_json(sent[EVENTS]["body"])
    assert sent[EVENTS]["message_type"] == sent[EVENTS]["routing_key"] == "backup.failed.v1"
    assert (event.job_id, event.code, event.attempts, event.group) == (job_id, "schema_missing", 2, DUMP)
    letter = sent[DEAD]
    assert (letter["routing_key"], letter["message_type"]) == ("dead.exporter", "export.requested.v1")
    assert json.loads(letter["body"])["caption"] == "yearly"
    assert letter["correlation_id"] == job_id
    headers = json.loads(letter["headers"])
    assert headers.pop("x-host")
    assert headers.pop("x-first-failed-at") < headers.pop("x-last-failed-at")
    assert headers == {
        "x-job-id": str(job_id),
        "x-project-id": "acme",
        "x-reason": "schema_missing",
        "x-message": "There is no schema tenant_acme.",
        "x-attempts": 2,
        "x-service": "exporter",
        "x-replay-count": 0,
    }


@pytest.mark.parametrize("refused", ["backup.failed.v1", "dead.exporter"])
async def test_a_job_is_not_given_up_without_its_messages(
    control_plane: Database, connection: asyncpg.Connection, refused: str
) -> None:
    """If the event or the dead letter cannot be kept, the job has not failed either."""
    await add_job(control_plane)
    held = await must_claim(control_plane)
    before = await rows_of(connection)

    async with outbox_refuses(connection, refused):
        with pytest.raises(asyncpg.CheckViolationError):
            await attempts_of(control_plane).bury(held, Dead("code", "sentence"))

    assert await rows_of(connection) == before


# Cancelling


async def test_a_job_that_nobody_holds_is_cancelled_at_once(control_plane: Database) -> None:
    """Pending, or between two stages; the project is free again."""
    await add_job(control_plane)
    await dump(control_plane, await must_claim(control_plane))
    second = await add_job(control_plane)

    async with control_plane.session() as session:
        for job in await session.jobs.list():
            cancelled = await session.cancellations.unheld(job.id)
            assert cancelled is not None
            assert (cancelled.status, cancelled.stage) == (Status.CANCELLED, job.stage)
            assert cancelled.finished_at is not None

    assert (await find(control_plane, second)).status is Status.CANCELLED
    assert await claim(control_plane) is None
    assert await claim(control_plane, UPLOAD) is None


async def test_a_held_job_is_not_cancelled_behind_its_worker(control_plane: Database) -> None:
    """The worker's lease is not ended by somebody else's statement."""
    await add_job(control_plane)
    held = await must_claim(control_plane)

    async with control_plane.session() as session:
        assert await session.cancellations.unheld(held.job_id) is None

    await attempts_of(control_plane).renew(held, {})


async def test_a_cancelled_job_raises_the_fence(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """A worker that slept through its lease finds it gone for good."""
    await add_job(control_plane)
    held = await must_claim(control_plane)
    await lapse(connection, held.job_id)

    async with control_plane.session() as session:
        cancelled = await session.cancellations.unheld(held.job_id)

    assert cancelled is not None
    assert cancelled.fence == held.fence + 1


async def test_what_has_ended_stays_as_it_ended(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """A cancel that comes late, or for a job nobody knows, changes nothing."""
    await complete(control_plane, "done")
    await add_job(control_plane, "hopeless")
    await attempts_of(control_plane).bury(await must_claim(control_plane), Dead("code", "sentence"))
    before = await rows_of(connection)

    async with control_plane.session() as session:
        for job_id in [job.id for job in await session.jobs.list()] + [uuid4()]:
            assert await session.cancellations.unheld(job_id) is None

    assert await rows_of(connection) == before


@BOTH
async def test_a_job_that_is_to_be_cancelled_is_not_claimed(
    control_plane: Database, connection: asyncpg.Connection, group: StageGroup
) -> None:
    """Not by the next worker after its lease lapsed either; and nothing more is sent for it."""
    held = await _with_parts(control_plane, group)
    await connection.execute("UPDATE control_plane.jobs SET cancel_requested_at = now()")

    if group is UPLOAD:
        with pytest.raises(LeaseLost):
            await _sending(control_plane, held)
    await lapse(connection, held.job_id)

    assert await claim(control_plane, group) is None


async def test_the_final_transaction_wins_against_a_cancel(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Asked too late: the backup is there, so the job is completed."""
    held = await claimed_upload(control_plane)
    await connection.execute("UPDATE control_plane.jobs SET cancel_requested_at = now()")

    await _stored(control_plane, held)

    assert (await find(control_plane, held.job_id)).status is Status.COMPLETED


# The contract of moves


async def test_every_move_of_the_contract_is_made_by_somebody(
    control_plane: Database, connection: asyncpg.Connection, moves: Moves
) -> None:
    """MOVES lists neither more nor less than the product does (less is what every other test checks)."""
    for steps in ([], [_retry], [_dumped]):  # cancelled while it waits
        job_id = await add_job(control_plane)
        for step in steps:
            await step(control_plane, await must_claim(control_plane))
        await _cancel(control_plane, job_id)
    for group in StageGroup:
        lapsed = await held_job(control_plane, group)
        await lapse(connection, lapsed.job_id)
        held = await must_claim(control_plane, group)  # taken over
        await attempts_of(control_plane, group).hand_back(held, HandBack("drained", "Stopped."))
        await lapse(connection, (await must_claim(control_plane, group)).job_id)
        await _cancel(control_plane, held.job_id)
        await _bury(control_plane, await held_job(control_plane, group))
    await _cancel(control_plane, await _requeued(control_plane, await held_job(control_plane, DUMP)))
    await _cancel(control_plane, await _requeued(control_plane, await claimed_upload(control_plane)))
    without_parts = await claimed_upload(control_plane)
    await connection.execute(_GIVEN_UP, without_parts.job_id, without_parts.dump_fence)
    await _cancel(control_plane, await _requeued(control_plane, without_parts))
    resumed = await _requeued(control_plane, await claimed_upload(control_plane))
    assert (await must_claim(control_plane, UPLOAD)).job_id == resumed
    await _retry_from_dump(control_plane, await claimed_upload(control_plane, "loses-its-dump"))
    await complete(control_plane, "done")

    assert await moves() == MOVES


_GIVEN_UP = """
    INSERT INTO control_plane.backup_parts (job_id, dump_fence, kind, index, status, size_bytes, sha256)
    VALUES ($1, $2, 'part', 0, 'superseded', 1, '')
"""


async def _requeued(database: Database, held: Claim) -> UUID:
    await _bury(database, held)
    await requeue(database, held.job_id)
    return held.job_id


async def _cancel(database: Database, job_id: object) -> None:
    async with database.session() as session:
        assert await session.cancellations.unheld(job_id) is not None  # type: ignore[arg-type]


# The database itself


async def test_a_database_that_is_away_is_a_dependency_that_is_down(
    control_plane: Database, postgres_server: PostgresServer
) -> None:
    """Every call says so in the one way that costs no attempt, and works again when it is back."""
    job_id = await add_job(control_plane)
    postgres_server.stop()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match="PostgreSQL is not reachable"):
                await claim(control_plane)
    finally:
        postgres_server.start()

    assert (await must_claim(control_plane)).job_id == job_id


async def test_a_value_that_no_column_takes_is_not_an_outage(control_plane: Database) -> None:
    """An outage is waited for without end; a mistake of ours must be seen at once."""
    held = await held_job(control_plane, DUMP)

    with pytest.raises(asyncpg.DataError):
        await attempts_of(control_plane).retry(held, RetryAt("soon", "code", "sentence"))  # type: ignore[arg-type]


async def test_a_dump_says_what_it_holds(control_plane: Database) -> None:
    """The job's row keeps the facts of the dump, not its parts: those are rows of their own."""
    job_id = await add_job(control_plane)
    held = await must_claim(control_plane)
    await dump(control_plane, held)

    job = await find(control_plane, job_id)

    assert job.dump is not None
    assert "parts" not in job.dump.model_dump()
    assert job.dump.plain == dump_of(held).plain
