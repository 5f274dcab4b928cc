"""What a person decides about a letter, in PostgreSQL: where its job goes on, and what is done only once."""

import json
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.contracts.envelope import Delivery
from shared.contracts.errors import Unreadable
from shared.contracts.job import Claim, Stage, StageGroup, Status
from shared.contracts.letter import Letter
from shared.contracts.topology import COMMANDS
from shared.contracts.verdict import Dead
from shared.storage.attempts import Attempts
from shared.storage.cancel import Way as Cancelled
from shared.storage.cancel import cancel
from shared.storage.database import Database
from shared.storage.jobs import Job
from shared.storage.letters import Discard, Requeue, Requeued, Way
from shared.storage.requests import Outcome, accept
from shared.storage.set_aside import SetAside
from tests.integration.jobs_in import (
    add_job,
    claim,
    claimed_upload,
    empty,
    find,
    held_job,
    letter_of,
    must_claim,
    request_of,
    requeue,
)

DUMP, UPLOAD = StageGroup.DUMP, StageGroup.UPLOAD
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here, emptied before each."""
    return home


@pytest.fixture(autouse=True)
async def _emptied(connection: asyncpg.Connection) -> None:
    await empty(connection)


async def buried(database: Database, held: Claim) -> Job:
    """The job, given up."""
    service = "uploader" if held.group is UPLOAD else "exporter"
    attempts = Attempts(database, held.group, service=service, owner="tester", lease_seconds=60)
    await attempts.bury(held, Dead("timeout", "It took too long."))
    return await find(database, held.job_id)


async def failed(database: Database, group: StageGroup) -> Job:
    return await buried(database, await held_job(database, group))


async def audits(connection: asyncpg.Connection, action: str) -> list[dict[str, object]]:
    rows = await connection.fetch(
        "SELECT actor, project_id, job_id, detail FROM control_plane.audit_log WHERE action = $1 ORDER BY id",
        action,
    )
    return [{**dict(row), "detail": json.loads(row["detail"])} for row in rows]


# Dead letters: their jobs


async def test_a_failed_dump_begins_again(control_plane: Database, connection: asyncpg.Connection) -> None:
    """Pending at the dump with fresh attempts, a higher fence and replay count; its last error shows."""
    before = await failed(control_plane, DUMP)
    letter = letter_of(before)

    done = await Requeue(control_plane, user="ann")(letter)
    job = await find(control_plane, before.id)
    again = await must_claim(control_plane)

    assert (done.way, done.job_id, done.settled) == (Way.FROM_DUMP, job.id, True)
    assert (job.status, job.stage, job.finished_at) == (Status.PENDING, Stage.QUEUED, None)
    assert (job.dump_attempts, job.replay_count, job.fence) == (0, 1, before.fence + 1)
    assert (job.error_code, job.first_failed_at) == ("timeout", before.first_failed_at)
    assert (again.job_id, again.attempts) == (job.id, 1)
    (audited,) = await audits(connection, "dlq.requeue")
    assert audited == {
        "actor": "cli",
        "project_id": "acme",
        "job_id": job.id,
        "detail": {
            "user": "ann",
            "letter": letter.id,
            "queue": "dead.exporter",
            "reason": "unknown",
            "message_id": letter.id,
            "replay_count": 0,
            "way": "from_dump",
        },
    }


async def test_a_failed_upload_goes_on_with_its_dump(control_plane: Database) -> None:
    """It waits as pending for an uploader, which gets the same dump and a first attempt."""
    before = await failed(control_plane, UPLOAD)

    done = await requeue(control_plane, before.id)
    job = await find(control_plane, before.id)

    assert done.way is Way.RESUMED
    assert (job.status, job.stage, job.dump_fence) == (Status.PENDING, Stage.DUMPED, before.dump_fence)
    assert await claim(control_plane, DUMP) is None
    again = await must_claim(control_plane, UPLOAD)
    assert (again.job_id, again.attempts, again.dump_fence) == (job.id, 1, before.dump_fence)
    assert (await find(control_plane, job.id)).status is Status.RUNNING


async def test_an_upload_whose_parts_were_given_up_begins_at_the_dump(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """A backup never names a message that is deleted, or is to be."""
    held = await claimed_upload(control_plane)
    await connection.execute(
        "INSERT INTO control_plane.backup_parts (job_id, dump_fence, kind, index, status, size_bytes, sha256)"
        " VALUES ($1, $2, 'part', 0, 'superseded', 1, '')",
        held.job_id,
        held.dump_fence,
    )
    await buried(control_plane, held)

    done = await requeue(control_plane, held.job_id)

    assert done.way is Way.FROM_DUMP
    assert await claim(control_plane, UPLOAD) is None
    assert (await must_claim(control_plane, DUMP)).job_id == held.job_id


async def test_a_letter_is_requeued_once(control_plane: Database, connection: asyncpg.Connection) -> None:
    """Seen again after its job was put back, or has even failed again, it is only taken away."""
    job = await failed(control_plane, DUMP)
    first = letter_of(job)
    await Requeue(control_plane, user="ann")(first)

    waiting = await Requeue(control_plane, user="ann")(first)
    again = await buried(control_plane, await must_claim(control_plane))
    failed_again = await Requeue(control_plane, user="ann")(first)

    assert [done.way for done in (waiting, failed_again)] == [Way.ALREADY, Way.ALREADY]
    assert (again.status, (await find(control_plane, job.id)).status) == (Status.FAILED, Status.FAILED)
    assert [row["detail"]["way"] for row in await audits(connection, "dlq.requeue")] == [  # type: ignore[index]
        "from_dump",
        "already",
        "already",
    ]
    assert (await requeue(control_plane, job.id)).way is Way.FROM_DUMP
    assert (await find(control_plane, job.id)).replay_count == 2


async def test_the_letter_of_a_second_failure_says_that_it_is_one(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Its replay count is that of the requeue it comes from."""
    job = await failed(control_plane, DUMP)
    await requeue(control_plane, job.id)
    await buried(control_plane, await must_claim(control_plane))

    headers = await connection.fetch(
        "SELECT headers->>'x-replay-count' AS replays FROM control_plane.outbox"
        " WHERE routing_key = 'dead.exporter' ORDER BY sequence"
    )

    assert [row["replays"] for row in headers] == ["0", "1"]


async def test_an_equal_job_that_waits_is_not_doubled(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """The person is told which one waits; job and letter stay, and nothing is audited."""
    job = await failed(control_plane, DUMP)
    waiting = await add_job(control_plane)

    done = await requeue(control_plane, job.id)

    assert (done.way, done.settled) == (Way.REFUSED, False)
    assert str(waiting) in done.sentence
    assert (await find(control_plane, job.id)).status is Status.FAILED
    assert await audits(connection, "dlq.requeue") == []


async def test_a_new_request_joins_only_a_job_whose_dump_is_to_come(control_plane: Database) -> None:
    """A requeued job with an old dump is pending too, and must not stand for what was asked for today."""
    resumed = await failed(control_plane, UPLOAD)
    await requeue(control_plane, resumed.id)

    new = await accept(control_plane, request_of())
    joined = await accept(control_plane, request_of())

    assert (new.outcome, joined.outcome) == (Outcome.CREATED, Outcome.COALESCED)
    assert new.job.id == joined.job.id != resumed.id
    assert (await must_claim(control_plane, UPLOAD)).job_id == resumed.id
    assert await claim(control_plane, DUMP) is None, "one runs for each project"


async def test_a_job_that_waits_with_its_dump_can_be_cancelled(control_plane: Database) -> None:
    """Nobody holds it, so the request itself ends it."""
    job = await failed(control_plane, UPLOAD)
    await requeue(control_plane, job.id)

    done = await cancel(control_plane, job.id, actor="test")

    assert done is not None
    assert (done.way, done.job.status, done.job.stage) == (Cancelled.AT_ONCE, Status.CANCELLED, Stage.DUMPED)


async def test_a_letter_without_its_job_is_accepted_anew(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """The row was removed by its age; the letter holds the command, and its id is the request's."""
    job = await failed(control_plane, DUMP)
    letter = letter_of(job)
    await connection.execute("DELETE FROM control_plane.jobs")

    first = await Requeue(control_plane, user="ann")(letter)
    second = await Requeue(control_plane, user="ann")(letter)

    assert (first.way, second.way) == (Way.ACCEPTED, Way.ALREADY)
    assert first.job_id == second.job_id != job.id
    assert (await must_claim(control_plane)).options == job.options
    assert UUID(letter.id) == await connection.fetchval("SELECT request_id FROM control_plane.job_requests")


# Messages that are published again


def foreign(**changes: object) -> Delivery:
    delivery = Delivery(
        body=b'{"project_id": "acme"}\xff',
        message_id="order 7",
        message_type="export.requested.v0",
        app_id="platform",
        exchange=COMMANDS,
        routing_key="export.requested.v0",
        content_type="text/plain",
        headers={"traceparent": _TRACEPARENT, "x-job-id": str(uuid4()), "x-replay-count": 2, "x-death": []},
        correlation_id="not a uuid",
    )
    return replace(delivery, **changes)  # type: ignore[arg-type]


async def outbox_row(connection: asyncpg.Connection) -> dict[str, object]:
    (row,) = await connection.fetch("SELECT * FROM control_plane.outbox")
    loaded = {name: json.loads(row[name] or "null") for name in ("headers", "properties")}
    return {**dict(row), **loaded}


async def test_an_unrouted_message_is_published_as_it_was(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Bytes, address, type and ids are its publisher's; of its headers few are ours to pass on."""
    done = await Requeue(control_plane, user="ann")(Letter("unrouted", foreign()))
    row = await outbox_row(connection)

    assert done.way is Way.PUBLISHED
    assert (row["exchange"], row["routing_key"]) == (COMMANDS, "export.requested.v0")
    assert (row["body"], row["content_type"]) == (b'{"project_id": "acme"}\xff', "text/plain")
    assert row["message_type"] == "export.requested.v0"
    assert row["properties"] == {
        "message_id": "order 7",
        "app_id": "platform",
        "correlation_id": "not a uuid",
    }
    assert row["headers"] == {"traceparent": _TRACEPARENT, "x-replay-count": 3}
    (audited,) = await audits(connection, "dlq.requeue")
    assert audited["job_id"] is None, "another's header names no job of ours"


async def test_an_unreadable_message_goes_back_to_where_it_came_from(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """What was written down when it was set aside is enough to publish it again, and its replays count on."""
    delivery = foreign()
    await SetAside(control_plane, "exporter")(delivery, Unreadable("not_json", "The body is not JSON."))
    aside = await outbox_row(connection)
    await empty(connection)
    letter = Letter(
        "unreadable",
        foreign(
            message_id=str(aside["id"]), exchange="pgferry.dead", headers=aside["headers"], app_id="pgferry"
        ),
    )

    done = await Requeue(control_plane, user="ann")(letter)
    row = await outbox_row(connection)

    assert (letter.id, letter.reason, done.way) == (str(aside["id"]), "not_json", Way.PUBLISHED)
    assert (row["exchange"], row["routing_key"], row["body"]) == (
        COMMANDS,
        delivery.routing_key,
        delivery.body,
    )
    assert (row["message_type"], row["content_type"]) == (delivery.message_type, delivery.content_type)
    assert row["properties"] == {
        "message_id": "order 7",
        "app_id": "platform",
        "correlation_id": "not a uuid",
    }
    assert row["headers"] == {"traceparent": _TRACEPARENT, "x-replay-count": 3}


async def test_what_the_broker_moved_by_itself_goes_back_to_its_queue(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """A command that reached the delivery limit lies among the dead letters with its publisher's headers."""
    death = {"reason": "delivery_limit", "exchange": COMMANDS, "routing-keys": ["export.requested.v1"]}
    headers = {"x-death": [death], "x-job-id": str(uuid4()), "x-reason": "mine"}
    letter = Letter("dead.exporter", foreign(exchange="pgferry.dead", headers=headers))

    done = await Requeue(control_plane, user="ann")(letter)
    row = await outbox_row(connection)

    assert (letter.reason, done.way) == ("delivery_limit", Way.PUBLISHED)
    assert (row["exchange"], row["routing_key"]) == (COMMANDS, "export.requested.v1")
    assert row["headers"] == {"x-replay-count": 1}


@pytest.mark.parametrize("exchange", ["somebody.elses", None])
async def test_what_came_from_elsewhere_is_not_published(
    control_plane: Database, connection: asyncpg.Connection, exchange: str | None
) -> None:
    """A relay would try for ever to reach an exchange that is not there."""
    headers = {"x-reason": "invalid_message"} | ({"x-exchange": exchange} if exchange else {})
    letter = Letter("unreadable", foreign(message_id=str(uuid4()), headers=headers))

    done: Requeued = await Requeue(control_plane, user="ann")(letter)

    assert (done.way, done.settled) == (Way.REFUSED, False)
    assert await connection.fetchval("SELECT count(*) FROM control_plane.outbox") == 0


# Thrown away


async def test_a_discarded_letter_leaves_its_job_failed(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Only the audit knows of it."""
    job = await failed(control_plane, UPLOAD)
    letter = letter_of(job)

    await Discard(control_plane, user="ann")(letter)

    assert await find(control_plane, job.id) == job
    (audited,) = await audits(connection, "dlq.discard")
    assert (audited["actor"], audited["job_id"], audited["project_id"]) == ("cli", job.id, "acme")
    assert audited["detail"]["letter"] == letter.id  # type: ignore[index]
    assert audited["detail"]["queue"] == "dead.uploader"  # type: ignore[index]


# Ids


def test_ids_are_the_same_at_each_look_and_differ_by_what_was_written() -> None:
    """Others' messages may have no id, or share one; the broker's own counters do not change it."""
    letter = Letter("unrouted", foreign())
    again = Letter("unrouted", foreign(headers={"x-delivery-count": 3}))
    others = [
        Letter("unrouted", foreign(**change))
        for change in ({"body": b"{}"}, {"message_id": None}, {"routing_key": "a"}, {"app_id": "b"})
    ]

    assert letter.id == again.id
    assert len({letter.id, *(other.id for other in others)}) == 5
