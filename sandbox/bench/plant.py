"""What the bench measures on: a private server with a control plane and tenants, and exporters as processes.

`sandbox.bench.export` opens one. No broker runs: an exporter does a job from its claim to its record without.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg

from sandbox.bench.processor import own_seconds, peak_bytes
from sandbox.directory import ScratchDirectory
from sandbox.postgres import PostgresServer
from sandbox.process import wait_until
from sandbox.stack import ROLES, START_SECONDS, Service, Stack, allow_dump, make_roles
from services.exporter.pg_dump import Client, client_for, find_clients
from shared.contracts.job import ExportOptions
from shared.storage.database import Database, open_database
from shared.storage.migrate import migrate
from shared.storage.requests import Request, Source, accept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

_DATABASE, _CROWDED = "bench", "crowded"
_SETTINGS = {
    "track_commit_timestamp": "on",
    "wal_level": "minimal",  # rows of a table made in the same transaction are not logged
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "autovacuum": "off",
}
_NOBODY = "amqp://guest:guest@127.0.0.1:1/"
_POLL_SECONDS = 0.02
_EXPORT_SECONDS = 3600.0

_PROGRESS = """
    SELECT count(*) FILTER (WHERE stage = 'dumped') AS dumped, min(error_message) AS problem
      FROM control_plane.jobs
"""

# A row's last transaction is the one that recorded the dump.
_SECONDS = """
    SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) - min(claimed_at))::float8
      FROM control_plane.jobs
"""

_FORGET = "TRUNCATE control_plane.jobs, control_plane.outbox CASCADE"


class BenchFailed(Exception):
    """A run did not do what it was timed for; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """One exporter's process."""

    plant: Plant
    service: Service

    async def export(self, *slugs: str) -> float:
        """Back these up at once: seconds from the first claim to the last job recorded."""
        for slug in slugs:
            await self.plant.request(slug)
        deadline = time.monotonic() + _EXPORT_SECONDS
        while not await self._recorded(len(slugs)):
            self.service.child.require_running()
            if time.monotonic() > deadline:
                raise BenchFailed(f"{slugs} took longer than {_EXPORT_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)
        seconds: float = await self.plant.owner.fetchval(_SECONDS)
        await self.plant.forget()
        return seconds

    async def _recorded(self, jobs: int) -> bool:
        progress = await self.plant.owner.fetchrow(_PROGRESS)
        assert progress is not None  # noqa: S101 - an aggregate always gives a row
        if progress["problem"]:
            raise BenchFailed(f"an export failed: {progress['problem']}")
        return bool(progress["dumped"] == jobs)

    def peak_bytes(self) -> int:
        return peak_bytes(self.service.child.pid)

    def cpu_seconds(self) -> float:
        """Of this process alone, without pg_dump."""
        return own_seconds(self.service.child.pid)


@dataclass(frozen=True, slots=True)
class Plant:
    server: PostgresServer
    stack: Stack
    owner: asyncpg.Connection  #: of the control plane and the tenants beside it
    database: Database
    client: Client

    async def add_tenant(
        self, slug: str, make: Callable[[asyncpg.Connection], Awaitable[None]], *, crowded: bool = False
    ) -> None:
        """A project whose schema `make` makes."""
        connection = await asyncpg.connect(self.server.url(_CROWDED if crowded else _DATABASE))
        try:
            await make(connection)
            await allow_dump(connection, f"tenant_{slug}")
        finally:
            await connection.close()
        await self.owner.execute("INSERT INTO control_plane.projects (id, slug) VALUES ($1, $1)", slug)

    async def settle(self) -> None:
        """Do now what the first readers would do otherwise, or a background process beside them."""
        for database in (_DATABASE, _CROWDED):
            connection = await asyncpg.connect(self.server.url(database))
            try:
                await connection.execute("VACUUM (FREEZE, ANALYZE)")
            finally:
                await connection.close()
        await self.owner.execute("CHECKPOINT")

    def tenants_url(self, *, crowded: bool = False) -> str:
        """Where an exporter and pg_dump read, as the dump role."""
        url = self.stack.url_as("dump")
        return url.removesuffix(_DATABASE) + _CROWDED if crowded else url

    @asynccontextmanager
    async def exporter(self, *, crowded: bool = False) -> AsyncIterator[Exporter]:
        """A new process, ended with the block."""
        service = self.stack.start("exporter", TENANT_DATABASE_URL=self.tenants_url(crowded=crowded))
        try:
            wait_until(lambda: _answers(service), seconds=START_SECONDS, what="the exporter answers")
            yield Exporter(self, service)
        finally:
            service.stop()

    async def request(self, slug: str) -> None:
        await accept(
            self.database,
            Request(
                request_id=uuid4(),
                options=ExportOptions.model_validate({"project_id": slug}),
                source=Source.CLI,
                actor="bench",
                announce=False,
            ),
        )

    async def forget(self) -> None:
        """Remove all jobs and their files, so that the next round finds what this one found."""
        await self.owner.execute(_FORGET)
        for path in self.stack.spool.glob("*-*"):
            if path.is_dir():
                shutil.rmtree(path)


@asynccontextmanager
async def open_plant() -> AsyncIterator[Plant]:
    async with AsyncExitStack() as opened:
        server = opened.enter_context(PostgresServer(settings=_SETTINGS))
        await _make_databases(server)
        scratch = ScratchDirectory()
        opened.callback(scratch.close)
        stack = opened.enter_context(_stack(server, scratch.path))
        owner = await asyncpg.connect(server.url(_DATABASE))
        opened.push_async_callback(owner.close)
        await migrate(owner)
        await make_roles(owner, stack.role_passwords)
        database = await opened.enter_async_context(
            open_database(server.url(_DATABASE), name="pgferry-bench")
        )
        client = client_for(owner.get_server_version().major, find_clients("/usr/lib/postgresql/*/bin"))
        yield Plant(server, stack, owner, database, client)


async def _make_databases(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url())
    try:
        for name in (_DATABASE, _CROWDED):
            await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()


def _stack(server: PostgresServer, directory: Path) -> Stack:
    return Stack(
        directory=directory,
        database_url=server.url(_DATABASE),
        amqp_url=_NOBODY,
        telegram_api_url="http://127.0.0.1:1",
        bot_token="",
        chat_id=0,
        role_passwords={role: secrets.token_hex(8) for role in ROLES},
    )


def _answers(service: Service) -> bool:
    service.child.require_running()
    return service.get("/healthz")[0] == 200  # noqa: PLR2004 - HTTP's OK
