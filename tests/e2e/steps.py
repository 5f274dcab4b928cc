"""What the end-to-end tests do again and again: ask, wait, look, bring back, compare."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import jwt

from sandbox.compare import Comparison, compare_schemas
from sandbox.process import children_of, wait_until
from sandbox.restore import Fetched
from sandbox.stack import Service, Stack, http_get, http_post
from shared.contracts.job import ExportOptions
from shared.storage.database import Database
from shared.storage.requests import Request, Source, accept

DEADLINE_SECONDS = 60.0

#: A worker that dies is missed after three seconds, and retries come at once; only workers see to it.
QUICK = {
    "PGFERRY_RECONCILE_SECONDS": 3600,
    "PGFERRY_LEASE_SECONDS": 5,
    "PGFERRY_HEARTBEAT_SECONDS": 0.5,
    "PGFERRY_POLL_SECONDS": 0.3,
    "PGFERRY_RETRY_SCALE": 0.01,
}


def pgferry(stack: Stack, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=stack.environment("cli") | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


def token_for(stack: Stack, project: str) -> str:
    claims = {"project_id": project, "exp": datetime.now(UTC) + timedelta(hours=1)}
    return jwt.encode(claims, stack.keys.jwt_secret, algorithm="HS256")


def post_export(stack: Stack, project: str, **options: str) -> UUID:
    headers = {"Authorization": f"Bearer {token_for(stack, project)}"}
    status, text = http_post(
        f"{stack.gateway_url}/api/backup/export", {"project_id": project, **options}, headers
    )
    assert status == 202, text
    return UUID(json.loads(text)["data"]["job_id"])


def get_job(stack: Stack, project: str, job_id: UUID) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token_for(stack, project)}"}
    status, text = http_get(f"{stack.gateway_url}/api/backup/jobs/{job_id}", headers)
    assert status == 200, text
    data: dict[str, Any] = json.loads(text)["data"]
    return data


async def ask(database: Database, project: str, **options: object) -> UUID:
    """Accept a request as the gateway does; the command leaves by a relay of whoever runs."""
    request = Request(
        request_id=uuid4(),
        options=ExportOptions.model_validate({"project_id": project, **options}),
        source=Source.CLI,
        actor="test",
        announce=True,
    )
    return (await accept(database, request)).job.id


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll until it holds; the deadline is generous, machines are noisy."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS} s"
        await asyncio.sleep(0.005)


async def job_row(connection: asyncpg.Connection, job_id: UUID) -> asyncpg.Record:
    row = await connection.fetchrow("SELECT * FROM control_plane.jobs WHERE id = $1", job_id)
    assert row is not None
    return row


async def ended(connection: asyncpg.Connection, job_id: UUID) -> asyncpg.Record:
    """The job's row once it is final."""

    async def final() -> bool:
        row = await job_row(connection, job_id)
        return row["status"] in {"completed", "failed", "cancelled"}

    await until(final, f"job {job_id} has ended")
    return await job_row(connection, job_id)


async def caught_dumping(
    stack: Stack, exporter: Service, database: Database, project: str
) -> tuple[UUID, int]:
    """Ask for an export and stop its pg_dump in the middle; returns the job and the process id."""
    async with dumps_held(stack.database_url):
        job_id = await ask(database, project)
        return job_id, await frozen_pg_dump(exporter)


@asynccontextmanager
async def dumps_held(url: str) -> AsyncIterator[None]:
    """pg_dump waits in the middle of a table's rows, so that it can be caught however quick it is.

    What it waits for is the index by which a long value's pieces are found; nobody else needs it.
    """
    connection = await asyncpg.connect(url)
    try:
        index = await connection.fetchval(_INDEX_OF_LONG_VALUES)
        await connection.execute("BEGIN")
        await connection.execute(f"REINDEX INDEX {index}")
        yield
    finally:
        await connection.close()


_INDEX_OF_LONG_VALUES = """
    SELECT pg_index.indexrelid::regclass::text
    FROM pg_class JOIN pg_index ON pg_index.indrelid = pg_class.reltoastrelid
    WHERE pg_class.relname = 'awkward_texts'
"""


async def frozen_pg_dump(exporter: Service) -> int:
    """Stop it as soon as it writes; whoever calls this holds dumps."""
    found: list[int] = []

    async def caught() -> bool:
        for pid in children_of(exporter.child.pid):
            if b"pg_dump" in _command_line(pid) and _written(pid) > 0:
                os.kill(pid, signal.SIGSTOP)
                found.append(pid)
        return bool(found)

    await until(caught, "pg_dump writes")
    return found[0]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _written(pid: int) -> int:
    """Bytes the process has written; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


def wait_consuming(service: Service) -> Service:
    """Return when it consumes from the broker, which makes it no readier; exchanges and queues are there."""
    service.wait_ready()
    wait_until(
        lambda: 'pgferry_amqp_connected{connection="consumer"} 1.0' in service.get("/metrics")[1],
        seconds=DEADLINE_SECONDS,
        what=f"{service.name} consumes",
    )
    return service


def fetch(stack: Stack, backup_id: UUID, folder: Path) -> Fetched:
    done = pgferry(stack, "backups", "fetch", str(backup_id), "--to", str(folder))
    assert done.returncode == 0, done.stderr
    identity = folder.parent / f"{folder.name}-key.txt"
    identity.write_text(stack.keys.identity + "\n")
    return Fetched(folder, identity)


async def restored(stack: Stack, backup_id: UUID, *, schema: str, empty_url: str) -> Comparison:
    """Fetch from the chat, restore with standard tools, compare with the source as it is now."""
    fetched = fetch(stack, backup_id, stack.directory / f"fetched-{backup_id}")
    fetched.check()
    fetched.restore_into(empty_url)
    source, copy = await asyncpg.connect(stack.database_url), await asyncpg.connect(empty_url)
    try:
        return await compare_schemas(source, copy, schema=schema)
    finally:
        await source.close()
        await copy.close()


async def require_nothing_left(stack: Stack, connection: asyncpg.Connection, job_id: UUID) -> None:
    """No process, no server session, no file, no unsent message, no row of a set that is not the backup's."""

    async def at_rest() -> bool:
        sessions = await sessions_of(connection, job_id)
        unsent: int = await connection.fetchval(
            "SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NULL"
        )
        files = [path.name for path in stack.spool.iterdir()]
        processes = [
            child
            for service in stack.services
            if service.child.running
            for child in children_of(service.child.pid)
        ]
        return (sessions, unsent, files, processes) == (0, 0, [".pgferry-spool"], [])

    await until(at_rest, "sessions, messages, files and processes are gone")
    row = await job_row(connection, job_id)
    assert (row["lease_until"], row["owner"]) == (None, None)
    sets = await connection.fetch(
        "SELECT DISTINCT dump_fence, status FROM control_plane.backup_parts WHERE job_id = $1", job_id
    )
    assert [tuple(found) for found in sets] == [(row["dump_fence"], "sent")]
    backups = await connection.fetchval(
        "SELECT count(*) FROM control_plane.backups WHERE job_id = $1", job_id
    )
    assert backups == 1


async def sessions_of(connection: asyncpg.Connection, job_id: UUID, fence: int | str = "%") -> int:
    """Server sessions that a job's workers have open."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE $1", f"pgferry:{job_id}:{fence}"
    )
    return count


async def all_sent(connection: asyncpg.Connection) -> None:
    async def nothing_unsent() -> bool:
        unsent: int = await connection.fetchval(
            "SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NULL"
        )
        return unsent == 0

    await until(nothing_unsent, "the outbox is empty")
