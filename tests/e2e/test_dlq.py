"""`pgferry dlq …` as an operator's shell runs it, on a real broker: what it shows, what leaves a queue."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel

from sandbox.stack import Stack
from sandbox.tenants import create_small_tenant
from shared.contracts.errors import Unreadable
from shared.contracts.messages import ExportRequested
from shared.contracts.topology import (
    COMMANDS,
    DEAD,
    DEAD_EXPORTER,
    EXPORTER,
    UNREADABLE,
    UNROUTED_QUEUE,
    dead_key,
)
from shared.contracts.verdict import Dead
from shared.messaging.connection import connected
from shared.messaging.consumer import delivery_of
from shared.messaging.declare import declare
from shared.messaging.letters import open_boxes
from shared.messaging.relay import Relay
from shared.messaging.session import Session
from shared.storage.attempts import Attempts
from shared.storage.database import Database
from shared.storage.letters import Requeue, Way
from shared.storage.nudges import OUTBOX
from shared.storage.outbox_session import outbox_of
from shared.storage.set_aside import SetAside
from tests.e2e import commands, steps
from tests.e2e.commands import Said
from tests.e2e.steps import QUICK
from tests.integration.jobs_in import add_job, find, must_claim
from tests.waiting import beside, eventually

_FAILED_AT = datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC)
NO_SUCH_CHAT = -1009999999999


@pytest.fixture
async def channel(vhost_url: str) -> AsyncIterator[AbstractChannel]:
    """The test's own channel to a broker whose topology is declared."""
    async with connected(vhost_url, name="test") as connection:
        await declare(connection)
        yield await connection.channel()


@pytest.fixture
def settings(control_plane_url: str, vhost_url: str) -> dict[str, str]:
    return {"DATABASE_URL": control_plane_url, "AMQP_URL": vhost_url}


async def dlq(settings: Mapping[str, str], *arguments: str) -> Said:
    return await commands.pgferry("dlq", *arguments, **settings)


async def publish(
    channel: AbstractChannel, exchange: str, key: str, body: bytes, **properties: object
) -> None:
    target = await channel.get_exchange(exchange, ensure=False)
    await target.publish(aio_pika.Message(body, **properties), key)  # type: ignore[arg-type]


async def put_dead_letter(
    channel: AbstractChannel,
    *,
    reason: str = "timeout",
    job_id: UUID | None = None,
    project: str = "acme",
    failed_at: datetime = _FAILED_AT,
) -> str:
    """A dead letter as a service's relay publishes it; returns its id."""
    letter_id = str(uuid4())
    headers = {
        "x-job-id": str(job_id or uuid4()),
        "x-project-id": project,
        "x-reason": reason,
        "x-message": "It took too long.",
        "x-attempts": 3,
        "x-service": "exporter",
        "x-host": "host-1",
        "x-first-failed-at": "2026-01-02T03:04:05.678901+00:00",
        "x-last-failed-at": failed_at.isoformat(),
        "x-replay-count": 0,
    }
    body = f'{{"project_id": "{project}"}}'.encode()
    properties = {"message_id": letter_id, "type": ExportRequested.type, "app_id": "pgferry"}
    await publish(
        channel, DEAD, dead_key("exporter"), body, headers=headers, timestamp=failed_at, **properties
    )
    return letter_id


async def depth(url: str, queue: str) -> int:
    """Messages in the queue when nobody holds any."""
    async with connected(url, name="test-count") as connection:
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


async def until_depth(url: str, queue: str, number: int) -> None:
    async def reached() -> bool:
        return await depth(url, queue) == number

    await eventually(reached, seconds=60)


@asynccontextmanager
async def relaying(url: str, database: Database) -> AsyncIterator[None]:
    """What every service runs beside its work."""
    session = Session(url, service="test", purpose="publisher")
    async with beside(session.run(Relay(outbox_of(database), database.nudges.event(OUTBOX)).run)):
        yield


async def failed_job(database: Database, project: str = "acme") -> UUID:
    """A job that an exporter has given up."""
    await add_job(database, project)
    held = await must_claim(database)
    attempts = Attempts(database, held.group, service="exporter", owner="tester", lease_seconds=60)
    await attempts.bury(held, Dead("timeout", "It took too long."))
    return held.job_id


# The whole round


async def test_a_hopeless_export_is_mended_and_requeued(
    stack: Stack, connection: asyncpg.Connection, channel: AbstractChannel, vhost_url: str
) -> None:
    """Twice: a schema that was missing, then a chat that is none; the second time without a new dump.

    The role of the gateway has all the rights that it takes.
    """
    cli = stack.environment("cli") | {"DATABASE_URL": stack.url_as("gateway")}
    await connection.execute("INSERT INTO control_plane.projects (id, slug) VALUES ('acme', 'acme')")
    steps.wait_consuming(stack.start("exporter", **QUICK))
    misled = stack.start("uploader", **QUICK, TELEGRAM_CHAT_ID=NO_SUCH_CHAT)
    await publish(channel, COMMANDS, ExportRequested.type, b'{"project_id": "acme"}')
    await until_depth(vhost_url, DEAD_EXPORTER.name, 1)

    (letter,) = (await dlq(cli, "list", "--json")).json()
    assert (letter["queue"], letter["reason"], letter["attempts"]) == ("dead.exporter", "schema_missing", 1)
    job_id = UUID(letter["job_id"])
    await create_small_tenant(connection, slug="acme", rows=10)
    await connection.execute("GRANT USAGE ON SCHEMA tenant_acme TO pgferry_dump")
    await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA tenant_acme TO pgferry_dump")
    await connection.execute("GRANT SELECT ON ALL SEQUENCES IN SCHEMA tenant_acme TO pgferry_dump")
    first = await dlq(cli, "requeue", letter["id"], "--yes")
    assert (first.code, first.out) == (0, f"requeued: job {job_id} begins again at the dump\n")
    await until_depth(vhost_url, DEAD_EXPORTER.name, 0)

    await until_depth(vhost_url, "pgferry.dead.uploader.v1", 1)
    (letter,) = (await dlq(cli, "list", "--queue", "dead", "--json")).json()
    dumped = await steps.job_row(connection, job_id)
    assert (letter["job_id"], letter["replay_count"]) == (str(job_id), 1)
    misled.stop()
    stack.start("uploader", **QUICK)
    second = await dlq(cli, "requeue", "--reason", letter["reason"], "--yes", "--json")
    row = await steps.ended(connection, job_id)

    assert second.json() == {"requeued": 1, "ways": {"resumed": 1}, "refused": []}
    assert (row["status"], row["replay_count"], row["error_code"]) == ("completed", 2, None)
    assert (row["dump_fence"], row["dump_attempts"]) == (dumped["dump_fence"], 0)
    assert await depth(vhost_url, "pgferry.dead.uploader.v1") == 0


# Looking


async def test_hundreds_of_letters_stay_as_they_are_when_somebody_looks(
    channel: AbstractChannel, settings: dict[str, str], vhost_url: str
) -> None:
    """Counted by reason, listed the oldest first whatever order the broker has; a limit says what it left."""
    reasons = ["time_limit"] * 60 + ["schema_missing"] * 140
    puts = [
        put_dead_letter(channel, reason=reason, failed_at=_FAILED_AT + timedelta(milliseconds=number))
        for number, reason in enumerate(reasons)
    ]
    ids = await asyncio.gather(*puts)

    grouped = await dlq(settings, "list", "--group-by", "reason", "--json")
    await until_depth(vhost_url, DEAD_EXPORTER.name, 200)
    listed = await dlq(settings, "list", "--limit", "10", "--json")

    assert grouped.json() == [
        {"queue": "dead.exporter", "reason": "schema_missing", "letters": 140},
        {"queue": "dead.exporter", "reason": "time_limit", "letters": 60},
    ]
    assert [letter["id"] for letter in listed.json()] == ids[:10]
    assert listed.sentence == "190 more letters; --limit says how many are listed"
    await until_depth(vhost_url, DEAD_EXPORTER.name, 200)


async def test_what_others_wrote_cannot_play_with_the_terminal(
    channel: AbstractChannel, settings: dict[str, str]
) -> None:
    """Control characters are shown as escape sequences, in tables, fields, bodies and JSON."""
    hostile = "\x1b[2J\u009b31m\u202egnp.exe"
    await publish(
        channel, COMMANDS, "export.requested.v7", b"\x1b]0;owned\x07\xff", message_id=hostile, type=hostile
    )
    await publish(
        channel, COMMANDS, "a.b", b'{"a":["\xc2\x9b"]}', headers={"x-reason": "mine", hostile: hostile}
    )

    listed = await dlq(settings, "list", "--queue", "unrouted", "--json")
    by_size = {letter["size_bytes"]: letter["id"] for letter in listed.json()}
    binary, text = by_size[11], by_size[12]
    shown = [await dlq(settings, "show", *arguments) for arguments in ([binary], [text], [text, "--json"])]

    assert [letter["reason"] for letter in listed.json()] == ["unrouted", "unrouted"]
    for said in (listed, *shown):
        assert said.code == 0
        assert all(character.isprintable() or character == "\n" for character in said.out)
    assert r"\x1b]0;owned\x07\xff" in shown[0].out
    assert '  "a": [' in shown[1].out
    assert shown[2].json()["body"] == '{"a":["\x9b"]}'


# Deciding


async def test_messages_of_others_are_published_again_as_they_were(
    channel: AbstractChannel, control_plane: Database, settings: dict[str, str], vhost_url: str
) -> None:
    """Unrouted and unreadable ones reach, byte for byte, where they were meant to go."""
    unreadable = await channel.declare_queue(exclusive=True)
    late = await channel.declare_queue(exclusive=True)
    await publish(
        channel, COMMANDS, "late.v1", b"\xff1", message_id="m 1", app_id="shop", headers={"x-death": "?"}
    )
    await publish(
        channel, COMMANDS, ExportRequested.type, b"\xff2", message_id="m 2", app_id="shop", type="t"
    )
    await late.bind(COMMANDS, "late.v1")
    await unreadable.bind(COMMANDS, ExportRequested.type)
    async with relaying(vhost_url, control_plane):
        message = await (await channel.get_queue(EXPORTER.name, ensure=False)).get()
        assert message is not None
        set_aside = SetAside(control_plane, "exporter")
        await set_aside(delivery_of(message), Unreadable("not_json", "The body is not JSON."))
        await message.ack()
        await until_depth(vhost_url, UNREADABLE.name, 1)

        done = await dlq(settings, "requeue", "--all", "--yes", "--json")
        found = [await _next(queue) for queue in (late, unreadable)]

    assert (done.code, done.json()["ways"]) == (0, {"published": 2})
    assert [(message.body, message.message_id, message.app_id, message.type) for message in found] == [
        (b"\xff1", "m 1", "shop", None),
        (b"\xff2", "m 2", "shop", "t"),
    ]
    assert [message.headers["x-replay-count"] for message in found] == [1, 1]
    assert [set(message.headers) - {"x-delivery-count"} for message in found] == [{"x-replay-count"}] * 2
    assert [await depth(vhost_url, queue.name) for queue in (UNREADABLE, UNROUTED_QUEUE)] == [0, 0]


async def _next(queue: aio_pika.abc.AbstractQueue) -> aio_pika.abc.AbstractIncomingMessage:
    found: list[aio_pika.abc.AbstractIncomingMessage] = []

    async def came() -> bool:
        message = await queue.get(no_ack=True, fail=False)
        found.extend([message] if message else [])
        return bool(found)

    await eventually(came, seconds=60)
    return found[0]


async def test_a_crash_between_commit_and_acknowledgement_requeues_once(
    channel: AbstractChannel, control_plane: Database, settings: dict[str, str], vhost_url: str
) -> None:
    """The letter is there again, its job was put back already: the letter goes, the job stays as it is."""
    job_id = await failed_job(control_plane)
    await put_dead_letter(channel, job_id=job_id)
    async with open_boxes(vhost_url) as boxes, boxes.open("dead.exporter") as box:
        (taken,) = [taken async for taken in box.letters()]
        done = await Requeue(control_plane, user="ann")(taken.letter)
    await until_depth(vhost_url, DEAD_EXPORTER.name, 1)
    before = await find(control_plane, job_id)

    again = await dlq(settings, "requeue", "--all", "--yes")

    assert (done.way, before.replay_count) == (Way.FROM_DUMP, 1)
    assert (again.code, again.out) == (0, f"requeued: job {job_id} was requeued before\n")
    assert await find(control_plane, job_id) == before
    await until_depth(vhost_url, DEAD_EXPORTER.name, 0)


async def test_a_letter_that_cannot_be_requeued_stays(
    channel: AbstractChannel, control_plane: Database, settings: dict[str, str], vhost_url: str
) -> None:
    """The others of the batch are; the sentence says which job stands in the way, and the code is 1."""
    job_id = await failed_job(control_plane)
    other = await failed_job(control_plane, "other")
    waiting = await add_job(control_plane)
    stays = await put_dead_letter(channel, job_id=job_id)
    await put_dead_letter(channel, job_id=other, project="other")

    done = await dlq(settings, "requeue", "--all", "--yes", "--json")
    (left,) = (await dlq(settings, "list", "--json")).json()

    assert done.code == 1
    assert done.json()["ways"] == {"from_dump": 1, "refused": 1}
    assert str(waiting) in done.err
    assert done.err.endswith("pgferry: 1 letter not requeued\n")
    assert left["id"] == stays


async def test_discarding_is_asked_for_and_audited(
    channel: AbstractChannel, connection: asyncpg.Connection, settings: dict[str, str], vhost_url: str
) -> None:
    """Without a terminal only with --yes; at one, a no leaves everything, and a yes takes it away."""
    letter = await put_dead_letter(channel)
    kept = await put_dead_letter(channel, reason="time_limit")

    nobody = await dlq(settings, "discard", letter)
    no = await _answering("n", settings, "discard", letter)
    yes = await _answering("y", settings, "discard", letter)
    left = await dlq(settings, "list")

    assert (nobody.code, nobody.out) == (2, "")
    assert "--yes" in nobody.sentence
    assert no.code == 1
    assert no.err == "dead.exporter  timeout  1\nDiscard 1 letter? [y/N] pgferry: nothing was done\n"
    assert (yes.code, yes.out) == (0, f"discarded: letter {letter} is thrown away\n")
    assert letter not in left.out
    assert (
        f"{kept}  dead.exporter  time_limit  acme     3         0        2026-01-02 03:05:05Z\n" in left.out
    )
    (row,) = await connection.fetch(
        "SELECT actor, project_id, detail->>'letter' AS letter, detail->>'user' AS who"
        " FROM control_plane.audit_log WHERE action = 'dlq.discard'"
    )
    assert (row["actor"], row["project_id"], row["letter"]) == ("cli", "acme", letter)
    assert row["who"]


async def _answering(answer: str, settings: Mapping[str, str], *arguments: str) -> Said:
    """The command at a terminal where somebody types this answer."""
    ours, theirs = os.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "dlq", *arguments),
            env=commands._environment(dict(settings)),
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        os.write(ours, f"{answer}\n".encode())
        return await commands.ended(process, settings)
    finally:
        os.close(ours)
        os.close(theirs)


async def test_ctrl_c_leaves_the_rest_where_it_is(
    channel: AbstractChannel, connection: asyncpg.Connection, settings: dict[str, str], vhost_url: str
) -> None:
    """A batch goes at its rate; stopped, it says how far it came, and what it did not reach waits on."""
    for number in range(40):
        await put_dead_letter(channel, project=f"p{number}")
    process = await commands.started("dlq", "requeue", "--all", "--yes", "--rate", "4", **settings)

    async def some_are_done() -> bool:
        return len(await _audited_at(connection)) >= 4

    await eventually(some_are_done, seconds=60)
    process.send_signal(signal.SIGINT)
    said = await commands.ended(process, settings)
    times = await _audited_at(connection)

    assert said.code == 130
    assert 4 <= len(times) < 40
    assert times[-1] - times[0] >= (len(times) - 1) / 4 - 0.2
    assert said.out.startswith("requeued: ")
    await until_depth(vhost_url, DEAD_EXPORTER.name, 40 - int(said.out.split()[1]))


async def _audited_at(connection: asyncpg.Connection) -> list[float]:
    rows = await connection.fetch(
        "SELECT extract(epoch FROM at)::float8 AS at FROM control_plane.audit_log"
        " WHERE action = 'dlq.requeue' ORDER BY id"
    )
    return [row["at"] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["requeue", "--yes"], "say which letters: one ID, or --reason R, or --all"),
        (["discard", "1", "--all", "--yes"], "say which letters: one ID, or --reason R, or --all"),
    ],
)
async def test_what_is_meant_must_be_said(
    settings: dict[str, str], arguments: list[str], sentence: str
) -> None:
    """Nothing is decided by leaving something out."""
    said = await dlq(settings, *arguments)

    assert (said.code, said.out, said.sentence) == (2, "", sentence)


async def test_a_broker_without_queues_or_none_at_all_is_named(
    settings: dict[str, str], channel: AbstractChannel
) -> None:
    """One sentence each: what is missing, and what to do."""
    nothing = await dlq(settings, "requeue", str(uuid4()), "--yes")
    away = await dlq(settings | {"AMQP_URL": "amqp://guest:secret@127.0.0.1:1/"}, "list")
    await channel.queue_delete(DEAD_EXPORTER.name)
    undeclared = await dlq(settings, "list")

    assert [said.code for said in (nothing, away, undeclared)] == [1, 1, 1]
    assert nothing.sentence == "no letter is meant by that; pgferry dlq list shows those that wait"
    assert away.sentence.startswith("The broker cannot be used: ")
    assert undeclared.sentence.endswith(f"no queue {DEAD_EXPORTER.name}; run: pgferry broker declare")
