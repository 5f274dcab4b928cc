"""The whole chain on private servers: gateway, exporter and uploader as processes, and who asks them.

`sandbox.bench.queue` opens one. PostgreSQL waits for its disk here, as it does where a control plane is real.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING
from uuid import UUID

import aiohttp
import asyncpg
import jwt

from sandbox.bench.plant import BenchFailed
from sandbox.bench.processor import ended_children_seconds, family_seconds, own_seconds
from sandbox.bench.queue_figures import STAND_IN, Round
from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from sandbox.directory import ScratchDirectory
from sandbox.postgres import PostgresServer
from sandbox.rabbitmq import RabbitMqServer
from sandbox.stack import ROLES, Service, Stack, make_roles
from sandbox.tenants import create_tables
from shared.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

BENCH_VHOST = "bench"
_DATABASE = "platform"
_ROWS = 100
_CHAT_ID = -1001234567890
_OPERATOR = {"roles": ["pgferry:operator"]}
_CALLERS = 5
_ROUND_SECONDS = 1800.0
_POLL_SECONDS = 0.02

_PROGRESS = """
    SELECT count(*) FILTER (WHERE status = 'completed') AS completed,
           min(error_message) FILTER (WHERE status = 'failed') AS problem
      FROM control_plane.jobs WHERE id = ANY($1)
"""

_UNSENT = "SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NULL"


@dataclass(frozen=True, slots=True)
class Servers:
    """What the services need; nothing of pgferry runs yet."""

    postgres: PostgresServer
    rabbitmq: RabbitMqServer
    bot_api: BotApi
    stack: Stack
    owner: asyncpg.Connection

    async def add_tenants(self, slugs: Sequence[str], *, tables: int) -> None:
        for slug in slugs:
            await create_tables(self.owner, slug=slug, tables=tables, rows=_ROWS)
            await self.stack.add_project(self.owner, slug, slug=slug)
        await self.owner.execute("VACUUM (FREEZE, ANALYZE)")
        await self.owner.execute("CHECKPOINT")


@dataclass(frozen=True, slots=True)
class Chain:
    """Running services; one round asks for an export of every tenant."""

    servers: Servers
    gateway: Service
    exporter: Service
    uploader: Service
    slugs: Sequence[str]

    async def __call__(self) -> Round:
        """Seconds from the first request to the last recorded backup; processor time until all is at rest."""
        before = self._processor()
        started = time.monotonic()
        jobs = await self._request_all()
        await self._until_completed(jobs)
        seconds = time.monotonic() - started
        await self._until_at_rest()
        after = self._processor()
        return Round(seconds, {name: after[name] - before[name] for name in after})

    async def _request_all(self) -> list[UUID]:
        claims = {**_OPERATOR, "exp": datetime.now(UTC) + timedelta(hours=1)}
        token = jwt.encode(claims, self.servers.stack.keys.jwt_secret, algorithm="HS256")
        async with aiohttp.ClientSession(
            self.servers.stack.gateway_url,
            headers={"Authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(limit=_CALLERS),
        ) as http:
            return await asyncio.gather(*(_request(http, slug) for slug in self.slugs))

    async def _until_completed(self, jobs: Sequence[UUID]) -> None:
        deadline = time.monotonic() + _ROUND_SECONDS
        while True:
            progress = await self.servers.owner.fetchrow(_PROGRESS, jobs)
            assert progress is not None  # noqa: S101 - an aggregate always gives a row
            if progress["problem"]:
                raise BenchFailed(f"an export failed: {progress['problem']}")
            if progress["completed"] == len(jobs):
                return
            self._require_time(deadline)
            await asyncio.sleep(_POLL_SECONDS)

    async def _until_at_rest(self) -> None:
        deadline = time.monotonic() + _ROUND_SECONDS
        while await self.servers.owner.fetchval(_UNSENT):
            self._require_time(deadline)
            await asyncio.sleep(_POLL_SECONDS)

    def _require_time(self, deadline: float) -> None:
        for service in (self.gateway, self.exporter, self.uploader):
            service.child.require_running()
        if time.monotonic() > deadline:
            raise BenchFailed(f"a round took longer than {_ROUND_SECONDS:g} s")

    def _processor(self) -> dict[str, float]:
        return {
            "gateway": own_seconds(self.gateway.child.pid),
            "exporter": own_seconds(self.exporter.child.pid),
            "uploader": own_seconds(self.uploader.child.pid),
            "pg_dump": ended_children_seconds(self.exporter.child.pid),
            "PostgreSQL": family_seconds(self.servers.postgres.pid),
            "RabbitMQ": family_seconds(self.servers.rabbitmq.pid or 0),
            STAND_IN: own_seconds(self.servers.bot_api.pid),
        }


@asynccontextmanager
async def open_servers() -> AsyncIterator[Servers]:
    async with AsyncExitStack() as opened:
        rabbitmq = RabbitMqServer(vhosts=[BENCH_VHOST])
        opened.callback(rabbitmq.close)
        rabbitmq.launch()
        postgres = opened.enter_context(PostgresServer(settings={"fsync": "on"}))
        rabbitmq.wait_ready()
        scratch = ScratchDirectory()
        opened.callback(scratch.close)
        token = f"7000001:{secrets.token_urlsafe(32)}"
        bot_api = opened.enter_context(
            BotApi(scratch.path / "bot-api", tokens=[token], chats=[_CHAT_ID], rules=Rules.none())
        )
        stack = opened.enter_context(
            Stack(
                directory=scratch.path,
                database_url=postgres.url(_DATABASE),
                amqp_url=rabbitmq.url(),
                telegram_api_url=bot_api.url,
                bot_token=token,
                chat_id=_CHAT_ID,
                role_passwords={role: secrets.token_hex(8) for role in ROLES},
            )
        )
        owner = await make_control_plane(postgres, _DATABASE)
        opened.push_async_callback(owner.close)
        await make_roles(owner, stack.role_passwords)
        yield Servers(postgres, rabbitmq, bot_api, stack, owner)


async def make_control_plane(postgres: PostgresServer, name: str) -> asyncpg.Connection:
    """A new database with the newest control plane; returns its owner's connection."""
    superuser = await asyncpg.connect(postgres.url())
    try:
        await superuser.execute(f"CREATE DATABASE {name}")
    finally:
        await superuser.close()
    owner = await asyncpg.connect(postgres.url(name))
    await migrate(owner)
    return owner


@asynccontextmanager
async def running_chain(servers: Servers, slugs: Sequence[str]) -> AsyncIterator[Chain]:
    """Services with their default settings; only the limit of requests per caller is out of the way."""
    stack = servers.stack
    gateway = stack.start("gateway", PGFERRY_RATE_LIMIT=100_000)
    exporter, uploader = stack.start("exporter"), stack.start("uploader")
    for service in (gateway, exporter, uploader):
        service.wait_ready()
    try:
        yield Chain(servers, gateway, exporter, uploader, slugs)
    finally:
        for service in (gateway, exporter, uploader):
            service.stop()


async def _request(http: aiohttp.ClientSession, slug: str) -> UUID:
    async with http.post("/api/backup/export", json={"project_id": slug}) as answer:
        body = await answer.json()
        if answer.status != HTTPStatus.ACCEPTED:
            raise BenchFailed(f"the gateway answered {answer.status}: {body}")
        return UUID(body["data"]["job_id"])
