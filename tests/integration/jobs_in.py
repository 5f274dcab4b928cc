"""Jobs in a real control plane, brought to where a test needs them by the product's own calls."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg

from sandbox.postgres import PostgresServer
from shared.contracts.envelope import Delivery
from shared.contracts.job import Claim, ExportOptions, Stage, StageGroup
from shared.contracts.letter import Letter
from shared.contracts.manifest import Dump, Part, Stream
from shared.storage.database import Database
from shared.storage.executor import Executor
from shared.storage.jobs import Job
from shared.storage.letters import Requeue, Requeued
from shared.storage.parts import Sent
from shared.storage.requests import Request, Source, accept

HASH = "0" * 64


@asynccontextmanager
async def copied_database(server: PostgresServer, template: str) -> AsyncIterator[str]:
    """The URL of a new copy of the template, for a module that empties it before each of many tests."""
    name = f"test-{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server.url())
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    await admin.close()
    yield server.url(name)
    admin = await asyncpg.connect(server.url())
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


async def empty(connection: asyncpg.Connection) -> None:
    for table in ("jobs", "backup_parts", "outbox", "audit_log", "spool"):
        await connection.execute(f"DELETE FROM control_plane.{table}")


@asynccontextmanager
async def outbox_refuses(connection: asyncpg.Connection, routing_key: str) -> AsyncIterator[None]:
    """No message with this key can be kept during the block."""
    await connection.execute(
        f"ALTER TABLE control_plane.outbox ADD CONSTRAINT refused CHECK (routing_key <> '{routing_key}')"
    )
    try:
        yield
    finally:
        await connection.execute("ALTER TABLE control_plane.outbox DROP CONSTRAINT refused")


def request_of(project_id: str = "acme", **options: object) -> Request:
    """A request by HTTP that also publishes its command."""
    return Request(
        request_id=uuid4(),
        options=ExportOptions.model_validate({"project_id": project_id, **options}),
        source=Source.HTTP,
        actor="user:tester",
        announce=True,
    )


async def add_job(database: Database, project_id: str = "acme", **options: object) -> UUID:
    """A pending job."""
    return (await accept(database, request_of(project_id, **options))).job.id


async def claim(
    database: Database,
    group: StageGroup = StageGroup.DUMP,
    *,
    lease_seconds: float = 60,
    at_most: int | None = None,
) -> Claim | None:
    async with database.session() as session:
        return await session.jobs.claim(group, owner="tester", lease_seconds=lease_seconds, at_most=at_most)


async def must_claim(database: Database, group: StageGroup = StageGroup.DUMP) -> Claim:
    taken = await claim(database, group)
    assert taken is not None
    return taken


async def find(database: Database, job_id: UUID) -> Job:
    async with database.session() as session:
        job = await session.jobs.find(job_id)
    assert job is not None
    return job


async def dump(database: Database, held: Claim, *, parts: int = 2) -> Dump:
    """Record a dump of this claim, as the exporter does at its end."""
    made = dump_of(held, parts=parts)
    async with database.transaction() as transaction:
        await transaction.jobs.dumped(held, made)
    return made


async def claimed_upload(database: Database, project_id: str = "acme") -> Claim:
    """A new job, dumped and then held by an uploader."""
    await add_job(database, project_id)
    await dump(database, await must_claim(database))
    return await must_claim(database, StageGroup.UPLOAD)


async def held_job(database: Database, group: StageGroup) -> Claim:
    """A new job, held in this half."""
    if group is StageGroup.UPLOAD:
        return await claimed_upload(database)
    await add_job(database)
    return await must_claim(database)


def dump_of(held: Claim, *, parts: int = 2) -> Dump:
    return Dump(
        job_id=held.job_id,
        dump_fence=held.fence,
        project_id=held.project_id,
        schema_name=f"tenant_{held.project_id}",
        format=held.options.format,
        compression=held.options.compression,
        encryption=None,
        snapshot_at=datetime.now(UTC),
        duration_seconds=1.5,
        server_version="15.18",
        client_version="15.18",
        plain=Stream(size_bytes=100, sha256=HASH),
        stored=Stream(size_bytes=50, sha256=HASH),
        tables=1,
        rows=7,
        facts='{"tables": []}',
        parts=parts_of(parts),
    )


def parts_of(count: int) -> tuple[Part, ...]:
    return tuple(Part(index=index, size_bytes=25, sha256=HASH) for index in range(count))


def sent_as(message_id: int) -> Sent:
    return Sent(bot_id=7, chat_id=-100, message_id=message_id, file_id="file", file_unique_id="unique")


def letter_of(job: Job) -> Letter:
    """The dead letter of a failed job, as far as a requeue looks at it."""
    half = "uploader" if job.stage is Stage.UPLOADING else "exporter"
    headers = {"x-job-id": str(job.id), "x-project-id": job.project_id, "x-replay-count": job.replay_count}
    return Letter(
        f"dead.{half}",
        Delivery(
            body=job.command,
            message_id=str(uuid4()),
            message_type="export.requested.v1",
            app_id="pgferry",
            exchange="pgferry.dead",
            routing_key=f"dead.{half}",
            content_type="application/json",
            headers=headers,
        ),
    )


async def requeue(database: Database, job_id: UUID) -> Requeued:
    """What an operator's requeue of this job's newest letter comes to."""
    return await Requeue(database, user="tester")(letter_of(await find(database, job_id)))


async def lapse(connection: Executor, job_id: UUID) -> None:
    """Let the job's lease have run out a moment ago, as if its worker had died."""
    await connection.execute(
        "UPDATE control_plane.jobs SET lease_until = now() - interval '1 millisecond' WHERE id = $1", job_id
    )


async def make_due(connection: asyncpg.Connection, job_id: UUID) -> None:
    """Let the job's wait be over."""
    await connection.execute("UPDATE control_plane.jobs SET run_after = now() WHERE id = $1", job_id)


async def rows_of(connection: asyncpg.Connection) -> Sequence[str]:
    """All of jobs, parts and outbox, to compare before and after."""
    return [
        record["row"]
        for table in ("jobs", "backup_parts", "outbox")
        for record in await connection.fetch(
            f'SELECT t::text AS "row" FROM control_plane.{table} AS t ORDER BY 1'
        )
    ]
