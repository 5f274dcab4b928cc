"""What the uploader is measured on: a private control plane, dumps in a spool, and uploaders as processes.

`sandbox.bench.upload` opens one. No exporter runs: each dump is recorded as an exporter does it, and its
parts are links to files of a stock. No broker runs either: an uploader needs none between claim and record.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from sandbox.bench.chain import make_control_plane
from sandbox.bench.plant import BenchFailed
from sandbox.bench.processor import peak_bytes
from sandbox.directory import ScratchDirectory
from sandbox.postgres import PostgresServer
from sandbox.process import wait_until
from sandbox.stack import ROLES, START_SECONDS, Service, Stack, make_roles
from shared.contracts.job import Claim, ExportOptions, StageGroup, schema_of
from shared.contracts.manifest import Dump, Encryption, Part, Stream
from shared.storage.database import Database, open_database
from shared.storage.requests import Request, Source, accept
from shared.storage.spool import MARKER, Spool, part_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    import asyncpg

    from sandbox.bot_api.process import BotApi

CHATS = (-1001000000001, -1001000000002, -1001000000003, -1001000000004)
PROJECTS = ("bench-1", "bench-2", "bench-3", "bench-4")
_DATABASE = "platform"
_NOBODY = "amqp://guest:guest@127.0.0.1:1/"
_POLL_SECONDS = 0.05
_UPLOAD_SECONDS = 3600.0

_PROGRESS = """
    SELECT count(*) FILTER (WHERE status = 'completed') AS completed,
           min(error_message) FILTER (WHERE error_message IS NOT NULL) AS problem,
           (SELECT min(waiting_at) FROM control_plane.lane_entries) AS reserved_at
      FROM control_plane.jobs
"""

_TIMES = """
    SELECT (SELECT min(claimed_at) FROM control_plane.jobs) AS claimed_at,
           max(sent_at) AS answered_at,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM sent_at - sending_at)) AS one
      FROM control_plane.backup_parts
"""

_FORGET = """
    TRUNCATE control_plane.jobs, control_plane.backup_parts, control_plane.lane_entries,
             control_plane.backups, control_plane.outbox CASCADE
"""


@dataclass(frozen=True, slots=True)
class Stock:
    """Files of random bytes, of one size each."""

    paths: Sequence[Path]
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """By the control plane's clock, in seconds: from claim or first reservation to the last answer."""

    since_claim: float
    since_reservation: float | None  #: None where there is no lane
    one_document: float  #: median


@dataclass(frozen=True, slots=True)
class Uploader:
    """One uploader's process."""

    plant: UploadPlant
    service: Service

    async def upload(self, *dumps: Sequence[Part], stock: Stock) -> Uploaded:
        """Send these dumps at once."""
        await self.plant.forget()
        for project_id, parts in zip(PROJECTS, dumps, strict=False):
            await self.plant.add_dump(project_id, parts, stock)
        reserved_at = await self._until_recorded(len(dumps))
        times = await self.plant.owner.fetchrow(_TIMES)
        assert times is not None  # noqa: S101 - an aggregate always gives a row
        answered_at: datetime = times["answered_at"]
        return Uploaded(
            since_claim=(answered_at - times["claimed_at"]).total_seconds(),
            since_reservation=(answered_at - reserved_at).total_seconds() if reserved_at else None,
            one_document=float(times["one"]),
        )

    async def _until_recorded(self, jobs: int) -> datetime | None:
        """When the first post stood in line: its entry is seen while its window lasts."""
        deadline = time.monotonic() + _UPLOAD_SECONDS
        reserved_at: datetime | None = None
        while True:
            progress = await self.plant.owner.fetchrow(_PROGRESS)
            assert progress is not None  # noqa: S101 - an aggregate always gives a row
            reserved_at = reserved_at or progress["reserved_at"]
            if progress["problem"] or time.monotonic() > deadline:
                raise BenchFailed(f"an upload failed: {progress['problem'] or 'it takes too long'}")
            if progress["completed"] == jobs:
                return reserved_at
            self.service.child.require_running()
            await asyncio.sleep(_POLL_SECONDS)

    def peak_bytes(self) -> int:
        return peak_bytes(self.service.child.pid)


@dataclass(frozen=True, slots=True)
class UploadPlant:
    stack: Stack
    owner: asyncpg.Connection
    database: Database

    def stock(self, name: str, *, files: int, size: int) -> Stock:
        folder = self.stack.directory / name
        folder.mkdir()
        made = [_made(folder / part_name(index), index, size) for index in range(files)]
        return Stock([path for path, _ in made], [part for _, part in made])

    async def add_dump(self, project_id: str, parts: Sequence[Part], stock: Stock) -> None:
        """A job whose dump lies in the spool, as an exporter leaves it."""
        await accept(self.database, _request(project_id))
        async with self.database.session() as session:
            claim = await session.jobs.claim(StageGroup.DUMP, owner="bench", lease_seconds=60, at_most=None)
        assert claim is not None  # noqa: S101 - nobody else claims dumps
        dump = _dump(claim, parts)
        prefix = Spool(self.stack.spool).prefix(claim.job_id, claim.fence)
        prefix.create()
        for part in parts:
            (prefix.path / part_name(part.index)).hardlink_to(stock.paths[part.index])
        prefix.write_dump(dump)
        async with self.database.transaction() as transaction:
            await transaction.jobs.dumped(claim, dump)

    async def forget(self) -> None:
        """Remove all jobs and what was posted in the lanes."""
        await self.owner.execute(_FORGET)

    @asynccontextmanager
    async def uploader(self, api: BotApi, **settings: object) -> AsyncIterator[Uploader]:
        """A new process that speaks to this stand-in, ended with the block."""
        greeted = _greeted(api)
        service = self.stack.start("uploader", TELEGRAM_API_URL=api.url, **settings)

        def is_up() -> bool:
            service.child.require_running()
            return (self.stack.spool / MARKER).exists() and _greeted(api) > greeted

        try:
            wait_until(is_up, seconds=START_SECONDS, what="the uploader greets the stand-in")
            yield Uploader(self, service)
        finally:
            service.stop()


@asynccontextmanager
async def open_upload_plant() -> AsyncIterator[UploadPlant]:
    async with AsyncExitStack() as opened:
        server = opened.enter_context(PostgresServer(settings={"fsync": "on"}))
        scratch = ScratchDirectory()
        opened.callback(scratch.close)
        stack = opened.enter_context(
            Stack(
                directory=scratch.path,
                database_url=server.url(_DATABASE),
                amqp_url=_NOBODY,
                telegram_api_url="http://127.0.0.1:1",
                bot_token=f"7000001:{secrets.token_urlsafe(32)}",
                chat_id=CHATS[0],
                role_passwords={role: secrets.token_hex(8) for role in ROLES},
            )
        )
        owner = await make_control_plane(server, _DATABASE)
        opened.push_async_callback(owner.close)
        await make_roles(owner, stack.role_passwords)
        for project_id in PROJECTS:
            await owner.execute("INSERT INTO control_plane.projects (id, slug) VALUES ($1, $1)", project_id)
        database = await opened.enter_async_context(
            open_database(server.url(_DATABASE), name="pgferry-bench")
        )
        yield UploadPlant(stack, owner, database)


def _greeted(api: BotApi) -> int:
    return sum(api.calls().get("getMe", {}).values())


def _made(path: Path, index: int, size: int) -> tuple[Path, Part]:
    content = os.urandom(size)
    path.write_bytes(content)
    return path, Part(index=index, size_bytes=size, sha256=hashlib.sha256(content).hexdigest())


def _request(project_id: str) -> Request:
    return Request(
        request_id=uuid4(),
        options=ExportOptions.model_validate({"project_id": project_id}),
        source=Source.CLI,
        actor="bench",
        announce=False,
    )


def _dump(claim: Claim, parts: Sequence[Part]) -> Dump:
    """Only the parts are real; an uploader passes all else on."""
    stream = Stream(size_bytes=sum(part.size_bytes for part in parts), sha256="0" * 64)
    return Dump(
        job_id=claim.job_id,
        dump_fence=claim.fence,
        project_id=claim.project_id,
        schema_name=schema_of(claim.project_id),
        format=claim.options.format,
        compression=claim.options.compression,
        encryption=Encryption(recipients=("0123456789abcdef",)),
        snapshot_at=datetime.now(UTC),
        duration_seconds=1.0,
        server_version="0",
        client_version="0",
        plain=stream,
        stored=stream,
        tables=1,
        rows=1,
        facts="",
        parts=tuple(parts),
    )
