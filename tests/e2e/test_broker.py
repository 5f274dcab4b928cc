"""What comes by the broker, and what goes on without it."""

import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from sandbox.stack import Stack
from sandbox.tenants import create_small_tenant
from shared.contracts.messages import BackupFailed, BackupStored, ExportRequested
from shared.contracts.topology import COMMANDS, DEAD_EXPORTER, EVENTS, EXPORTER, UNREADABLE
from tests.e2e import steps
from tests.e2e.steps import QUICK


@pytest.fixture
async def channel(vhost_url: str) -> AsyncIterator[AbstractChannel]:
    """A platform service's look at the broker."""
    async with await aio_pika.connect(vhost_url) as connection:
        yield await connection.channel(on_return_raises=True)


async def publish(channel: AbstractChannel, body: bytes, **properties: str | None) -> None:
    exchange = await channel.get_exchange(COMMANDS)
    await exchange.publish(aio_pika.Message(body, **properties), ExportRequested.type)  # type: ignore[arg-type]


async def next_of(channel: AbstractChannel, queue_name: str) -> AbstractIncomingMessage:
    """The next message of a queue, taken off it."""
    queue = await channel.get_queue(queue_name)
    found: list[AbstractIncomingMessage] = []

    async def came() -> bool:
        message = await queue.get(fail=False)
        if message is not None:
            await message.ack()
            found.append(message)
        return bool(found)

    await steps.until(came, f"a message in {queue_name}")
    return found[0]


async def depth(channel: AbstractChannel, queue_name: str) -> int:
    queue = await channel.get_queue(queue_name)
    count = (await queue.declare()).message_count
    assert count is not None
    return count


async def test_commands_of_platform_services(
    stack: Stack, connection: asyncpg.Connection, channel: AbstractChannel
) -> None:
    """`{"project_id": …}` alone is a command, and its message id makes a redelivery the same request."""
    await create_small_tenant(connection, slug="a", rows=10)
    await stack.add_project(connection, "project-a", slug="a")
    stack.start("uploader", **QUICK)
    steps.wait_consuming(stack.start("exporter", **QUICK))
    stored = await listening(channel, BackupStored.type)
    request = str(uuid4())

    await publish(channel, b'{"project_id": "project-a"}', message_id=request)
    message = await next_of(channel, stored)

    event = json.loads(message.body)
    row = await steps.job_row(connection, UUID(event["job_id"]))
    assert (row["status"], str(row["backup_id"])) == ("completed", event["backup_id"])
    assert message.correlation_id == event["job_id"]

    await publish(channel, b'{"project_id": "project-a"}', message_id=request)
    await publish(channel, b'{"project_id": "project-a", "from": "the future"}', message_id=str(uuid4()))
    second = json.loads((await next_of(channel, stored)).body)
    assert second["job_id"] != event["job_id"]
    assert await connection.fetchval("SELECT count(*) FROM control_plane.jobs") == 2


async def listening(channel: AbstractChannel, routing_key: str) -> str:
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(EVENTS, routing_key)
    return queue.name


async def test_hopeless_commands_end_in_their_queues(
    stack: Stack, connection: asyncpg.Connection, channel: AbstractChannel
) -> None:
    """Unreadable messages end once in their queue; jobs that cannot be done fail with code and sentence."""
    await connection.execute("INSERT INTO control_plane.projects (id, slug) VALUES ('bad', 'Bad/Slug')")
    await connection.execute("INSERT INTO control_plane.projects (id, slug) VALUES ('gone', 'gone')")
    await connection.execute('CREATE SCHEMA "tenant_Bad/Slug"')
    exporter = steps.wait_consuming(stack.start("exporter", **QUICK))
    failed = await listening(channel, BackupFailed.type)

    unreadable = {
        b"not json": "not_json",
        b'"text"': "invalid_message",
        b'{"format": "sql"}': "invalid_message",
        b'{"project_id": "../x"}': "invalid_message",
    }
    for body, reason in unreadable.items():
        await publish(channel, body)
        letter = await next_of(channel, UNREADABLE.name)
        assert (letter.body, letter.headers["x-reason"]) == (body, reason)
    await publish(channel, b'{"project_id": "bad"}', type="export.requested.v9")
    assert (await next_of(channel, UNREADABLE.name)).headers["x-reason"] == "unknown_type"

    hopeless = {"nobody": "unknown_project", "bad": "invalid_slug", "gone": "schema_missing"}
    for project, code in hopeless.items():
        body = json.dumps({"project_id": project}).encode()
        await publish(channel, body)
        letter = await next_of(channel, DEAD_EXPORTER.name)
        assert (letter.body, letter.headers["x-reason"]) == (body, code)
        event = json.loads((await next_of(channel, failed)).body)
        assert (event["code"], event["attempts"]) == (code, 1)
        row = await steps.job_row(connection, UUID(event["job_id"]))
        assert (row["status"], row["error_code"]) == ("failed", code)
        assert row["error_message"].endswith(".")
    assert [await depth(channel, queue.name) for queue in (UNREADABLE, DEAD_EXPORTER, EXPORTER)] == [0, 0, 0]
    assert exporter.child.running
