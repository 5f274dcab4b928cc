"""From the outbox to the broker: what is published how, and what stays."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from shared.contracts.envelope import Envelope, dead_letter
from shared.contracts.topology import (
    COMMANDS,
    DEAD,
    EVENTS,
    EXPORTER,
    INTERNAL,
    UNREADABLE,
    UNREADABLE_KEY,
    UPLOADER,
)
from shared.messaging.connection import connected
from shared.messaging.declare import declare
from shared.messaging.relay import Relay
from shared.messaging.session import Session
from shared.storage.database import Database, Transaction, open_database
from shared.storage.nudges import OUTBOX
from shared.storage.outbox_session import outbox_of
from tests.waiting import beside, eventually

_SENT_AT = "SELECT sent_at FROM control_plane.outbox WHERE id = $1"
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def channel(vhost_url: str) -> AsyncIterator[AbstractChannel]:
    """The test's own channel to a broker whose topology is declared."""
    async with connected(vhost_url, name="test") as connection:
        await declare(connection)
        yield await connection.channel()


@asynccontextmanager
async def relaying(url: str, database: Database) -> AsyncIterator[Session]:
    """A relay with its session beside the block."""
    session = Session(url, service="test", purpose="publisher")
    relay = Relay(outbox_of(database), database.nudges.event(OUTBOX))
    async with beside(session.run(relay.run)):
        yield session


def envelope(exchange: str = COMMANDS, routing_key: str = EXPORTER.binding) -> Envelope:
    return Envelope(
        id=uuid4(),
        exchange=exchange,
        routing_key=routing_key,
        message_type=routing_key,
        body=b'{"project_id":"acme"}',
        headers={"traceparent": _TRACEPARENT, "x-attempts": 2},
        correlation_id=uuid4(),
    )


async def add(database: Database, *envelopes: Envelope) -> None:
    async with database.transaction() as transaction:
        for one in envelopes:
            await transaction.outbox.add(one)


async def all_sent(database: Database, *, but: int = 0) -> bool:
    async with database.session() as session:
        messages, _oldest = await session.outbox.waiting()
    return messages == but


async def taken_from(channel: AbstractChannel, queue: str) -> AbstractIncomingMessage | None:
    message = await (await channel.get_queue(queue, ensure=False)).get(fail=False)
    if message is not None:
        await message.ack()
    return message


async def drained(channel: AbstractChannel, name: str) -> Sequence[AbstractIncomingMessage]:
    """All that the queue holds, after its publishers have stopped."""
    declared = (await channel.declare_queue(name, passive=True)).declaration_result
    messages: list[AbstractIncomingMessage] = []

    async def keep(message: AbstractIncomingMessage) -> None:
        messages.append(message)

    async def all_here() -> bool:
        return len(messages) == declared.message_count

    queue = await channel.get_queue(name, ensure=False)
    tag = await queue.consume(keep, no_ack=True)
    await eventually(all_here)
    await queue.cancel(tag)
    return messages


async def test_a_row_arrives_with_its_properties(
    vhost_url: str, control_plane: Database, channel: AbstractChannel, connection: asyncpg.Connection
) -> None:
    """Persistent, typed, named by the row's id, dated by the row, with its headers; then it is marked."""
    sent = envelope()
    await add(control_plane, sent)

    async with relaying(vhost_url, control_plane):
        await eventually(partial(all_sent, control_plane))
    message = await taken_from(channel, EXPORTER.name)
    [row] = await connection.fetch("SELECT * FROM control_plane.outbox")

    assert message is not None
    assert message.body == sent.body
    assert (message.message_id, message.correlation_id) == (str(sent.id), str(sent.correlation_id))
    assert (message.type, message.content_type) == ("export.requested.v1", "application/json")
    assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert message.headers == {"traceparent": _TRACEPARENT, "x-attempts": 2, "x-delivery-count": 0}
    assert message.timestamp == row["created_at"].replace(microsecond=0)
    assert (message.exchange, message.app_id) == (COMMANDS, "pgferry")
    assert (row["attempts"], row["last_error"]) == (1, None)


async def test_what_is_rolled_back_is_not_sent(
    vhost_url: str, control_plane: Database, channel: AbstractChannel
) -> None:
    """A message announces what was committed, or nothing."""
    async with control_plane.pool.acquire() as connection:
        rolled_back = connection.transaction()
        await rolled_back.start()
        await Transaction(connection).outbox.add(envelope())
        await rolled_back.rollback()

    kept = envelope()
    await add(control_plane, kept)
    async with relaying(vhost_url, control_plane):
        await eventually(partial(all_sent, control_plane))

    assert [message.message_id for message in await drained(channel, EXPORTER.name)] == [str(kept.id)]


async def test_a_new_row_wakes_the_relay(
    vhost_url: str, control_plane: Database, control_plane_url: str, channel: AbstractChannel
) -> None:
    """In this process by the commit, from another by NOTIFY: neither waits for the poll of a second."""
    async with (
        open_database(control_plane_url, name="other-process") as other,
        beside(control_plane.nudges.listen()),
        relaying(vhost_url, control_plane),
    ):
        await add(control_plane, envelope())
        await eventually(partial(all_sent, control_plane))
        seconds = []
        for database in 5 * (control_plane, other):
            begin = time.monotonic()
            await add(database, envelope())
            await eventually(partial(all_sent, control_plane))
            seconds.append(time.monotonic() - begin)

    assert sorted(seconds)[len(seconds) // 2] < 0.5


async def test_an_event_that_nobody_wants_is_sent(vhost_url: str, control_plane: Database) -> None:
    """Events are for whoever listens, and nobody may be."""
    await add(control_plane, envelope(EVENTS, "backup.stored.v1"))

    async with relaying(vhost_url, control_plane):
        await eventually(partial(all_sent, control_plane))


async def test_an_unroutable_row_waits_by_itself(
    vhost_url: str, control_plane: Database, channel: AbstractChannel, connection: asyncpg.Connection
) -> None:
    """It keeps its own error, rows behind it leave, and it leaves when a queue takes it again."""
    queue = await channel.get_queue(UPLOADER.name, ensure=False)

    async with relaying(vhost_url, control_plane) as session:
        await eventually(partial(_is_connected, session))
        await queue.unbind(INTERNAL, UPLOADER.binding)
        stuck = envelope(INTERNAL, UPLOADER.binding)
        await add(control_plane, stuck, *(envelope() for _ in range(20)))
        await eventually(partial(all_sent, control_plane, but=1))
        await eventually(partial(_has_error, connection, stuck.id))
        [row] = await connection.fetch("SELECT * FROM control_plane.outbox WHERE sent_at IS NULL")
        await queue.bind(INTERNAL, UPLOADER.binding)
        await eventually(partial(all_sent, control_plane))

    assert row["id"] == stuck.id
    assert row["last_error"] == "no queue takes dump.ready.v1 on pgferry.internal"
    assert len(await drained(channel, EXPORTER.name)) == 20
    assert [message.message_id for message in await drained(channel, UPLOADER.name)] == [str(stuck.id)]


async def test_a_row_that_cannot_be_written_down_waits_by_itself(
    vhost_url: str, control_plane: Database, channel: AbstractChannel, connection: asyncpg.Connection
) -> None:
    """The library refuses it with an error of its own; the others leave, and so do later ones."""
    impossible = replace(envelope(), message_type="x" * 300)

    async with relaying(vhost_url, control_plane):
        await add(control_plane, impossible, *(envelope() for _ in range(3)))
        await eventually(partial(_has_error, connection, impossible.id))
        await add(control_plane, envelope())
        await eventually(partial(all_sent, control_plane, but=1))

    assert len(await drained(channel, EXPORTER.name)) == 4


async def _has_error(connection: asyncpg.Connection, row: UUID) -> bool:
    """Its error is written after the others were marked."""
    error = await connection.fetchval("SELECT last_error FROM control_plane.outbox WHERE id = $1", row)
    return error is not None


async def _is_connected(session: Session) -> bool:
    return session.connected


async def test_a_dead_letter_that_no_queue_takes_stays(
    vhost_url: str, control_plane: Database, channel: AbstractChannel, connection: asyncpg.Connection
) -> None:
    """Dead letters are mandatory, too; after thousands of attempts the wait is still at most a minute."""
    letter = dead_letter(b"?", routing_key="dead.nobody", message_type="export.requested.v1", headers={})
    await add(control_plane, letter)
    await connection.execute("UPDATE control_plane.outbox SET attempts = 5000")

    async with relaying(vhost_url, control_plane):
        await eventually(partial(_has_failed, connection))
        await add(control_plane, envelope())
        await eventually(partial(all_sent, control_plane, but=1))

    wait = "SELECT extract(epoch FROM run_after - now()) FROM control_plane.outbox WHERE sent_at IS NULL"
    assert 50 < await connection.fetchval(wait) <= 60


async def _has_failed(connection: asyncpg.Connection) -> bool:
    return await connection.fetchval("SELECT last_error IS NOT NULL FROM control_plane.outbox") is True


async def test_an_exchange_that_was_deleted_is_declared_again(
    vhost_url: str, control_plane: Database, channel: AbstractChannel
) -> None:
    """Its loss closes the channel and leaves every publish on it in doubt: the session begins anew."""
    async with relaying(vhost_url, control_plane) as session:
        await eventually(partial(_is_connected, session))
        await channel.exchange_delete(EVENTS)
        await add(control_plane, envelope(EVENTS, "backup.stored.v1"))
        await eventually(partial(all_sent, control_plane))
        await add(control_plane, *(envelope() for _ in range(5)))
        await eventually(partial(all_sent, control_plane))

    assert len({message.message_id for message in await drained(channel, EXPORTER.name)}) == 5


async def test_two_relays_share_the_rows(
    vhost_url: str, control_plane: Database, control_plane_url: str, channel: AbstractChannel
) -> None:
    """With nothing going wrong, each row is published once, however many processes run a relay."""
    await add(control_plane, *(envelope(DEAD, UNREADABLE_KEY) for _ in range(300)))

    async with (
        open_database(control_plane_url, name="other-process") as other,
        relaying(vhost_url, control_plane),
        relaying(vhost_url, other),
    ):
        await eventually(partial(all_sent, control_plane))

    published = Counter(message.message_id for message in await drained(channel, UNREADABLE.name))
    assert len(published) == 300
    assert set(published.values()) == {1}


async def test_a_claimed_row_comes_back_when_its_relay_died(
    vhost_url: str, control_plane: Database, channel: AbstractChannel, connection: asyncpg.Connection
) -> None:
    """A claim is a short sleep of the row, no lock that somebody must release."""
    sent = envelope()
    await add(control_plane, sent)
    async with control_plane.session() as session:
        assert [row.envelope.id for row in await session.outbox.claim(10, claim_seconds=30)] == [sent.id]
        assert await session.outbox.claim(10, claim_seconds=30) == []
    await connection.execute("UPDATE control_plane.outbox SET run_after = now()")

    async with relaying(vhost_url, control_plane):
        await eventually(partial(all_sent, control_plane))

    assert len(await drained(channel, EXPORTER.name)) == 1


async def test_a_relay_that_slept_past_its_claim_changes_nothing(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """A row that another relay has published and marked meanwhile keeps the time at which it was sent."""
    row = envelope()
    await add(control_plane, row)
    async with control_plane.session() as session:
        await session.outbox.sent([row.id])
        before = await connection.fetchval(_SENT_AT, row.id)

        await session.outbox.sent([row.id])

    assert before is not None
    assert await connection.fetchval(_SENT_AT, row.id) == before


async def test_the_relay_survives_the_loss_of_its_database_sessions(
    vhost_url: str, control_plane: Database, channel: AbstractChannel, connection: asyncpg.Connection
) -> None:
    """A query that is cut off is a warning and another try, not the end of the relay."""
    async with relaying(vhost_url, control_plane) as session:
        await eventually(partial(_is_connected, session))
        for number in range(1, 4):
            await connection.execute(_END_SESSIONS)
            await connection.execute(_ADD_LIKE, uuid4())
            await eventually(partial(_has_sent, connection, number))

    assert len({message.message_id for message in await drained(channel, EXPORTER.name)}) == 3


_END_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'pgferry-test'
"""
_ADD_LIKE = """
    INSERT INTO control_plane.outbox (id, exchange, routing_key, message_type, body)
    VALUES ($1, 'pgferry.commands', 'export.requested.v1', 'export.requested.v1', '{}')
"""


async def _has_sent(connection: asyncpg.Connection, number: int) -> bool:
    sent = "SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NOT NULL"
    return bool(await connection.fetchval(sent) == number)


# Rows that cannot leave


async def test_a_thousand_stuck_rows_hold_up_no_other(
    vhost_url: str, control_plane: Database, channel: AbstractChannel, connection: asyncpg.Connection
) -> None:
    """More than batches hold, each tried before and due now: a new row still leaves with the first batch."""
    await connection.execute(_ADD_STUCK, 1000)
    fresh = [envelope() for _ in range(3)]
    await add(control_plane, *fresh)

    async with control_plane.session() as session:
        first = [row.envelope.id for row in await session.outbox.claim(1, claim_seconds=0)]
        batch = {row.envelope.id for row in await session.outbox.claim(100, claim_seconds=30)}
    async with relaying(vhost_url, control_plane):
        await connection.execute("UPDATE control_plane.outbox SET run_after = now()")
        await eventually(partial(all_sent, control_plane, but=1000))

    assert first == [fresh[0].id]
    assert len(batch) == 100
    assert len({row.id for row in fresh[1:]} & batch) == 2
    assert len(await drained(channel, EXPORTER.name)) == 3


async def test_rows_that_were_tried_before_have_their_share(
    control_plane: Database, connection: asyncpg.Connection
) -> None:
    """However many new ones come in, or an old one would never leave."""
    await connection.execute(_ADD_STUCK, 50)
    await add(control_plane, *(envelope() for _ in range(200)))

    async with control_plane.session() as session:
        batch = await session.outbox.claim(100, claim_seconds=30)

    assert sum(row.envelope.exchange == DEAD for row in batch) == 10
    assert len(batch) == 100


_ADD_STUCK = """
    INSERT INTO control_plane.outbox (id, exchange, routing_key, message_type, body, attempts, run_after)
    SELECT gen_random_uuid(), 'pgferry.dead', 'dead.nobody', 'test', '{}', 3, now() - interval '1 hour'
      FROM generate_series(1, $1::int)
"""


async def test_bytes_are_published_as_they_are_stored(
    vhost_url: str, control_plane: Database, channel: AbstractChannel
) -> None:
    """Nothing is decoded on the way: white space, doubled keys, what is no JSON and no text."""
    bodies = [b' {"a":1,\r\n "a" : 1.50, "\\u00e9":"\xc3\xa9"}\n', b"\xff\x00\xfe", b""]
    for body in bodies:
        await add(control_plane, replace(envelope(), body=body))

    async with relaying(vhost_url, control_plane):
        await eventually(partial(all_sent, control_plane))

    assert sorted(message.body for message in await drained(channel, EXPORTER.name)) == sorted(bodies)
