"""The private servers that all seeds of a run share, and a proxy between each process and each of them."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import asyncpg

from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from sandbox.chaos.fault import EVERYBODY
from sandbox.chaos.plan import AWKWARD_PROJECT, HOPELESS_PROJECTS, LARGE_PROJECT, SMALL_PROJECTS
from sandbox.directory import ScratchDirectory
from sandbox.postgres import PostgresServer
from sandbox.rabbitmq import RabbitMqServer
from sandbox.stack import ROLES, allow_dump, make_roles
from sandbox.tcp_proxy import Proxies, TcpProxy, pass_again_all
from sandbox.tenants import create_demo_tenant, create_small_tenant
from shared.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BOT_TOKEN: Final = "7000001:AAE-chaos-token-of-nobody-0123456789abc"  # noqa: S105 - the stand-in's
_TEMPLATE: Final = "chaos_template"
_FIRST_CHAT: Final = -1002000000000
_CHATS: Final = 2000
_READY_MADE_VHOSTS: Final = 64
_SMALL_ROWS: Final = 60
_LARGE_ROWS: Final = 40_000


class Server(StrEnum):
    POSTGRES = "postgres"
    AMQP = "amqp"
    TELEGRAM = "telegram"


@dataclass(slots=True)
class Servers:
    """Started once; each seed takes a database, a vhost and a chat of its own."""

    postgres: PostgresServer
    rabbitmq: RabbitMqServer
    bot_api: BotApi
    bot_api_directory: Path
    proxies: dict[tuple[str, Server], TcpProxy] = field(default_factory=dict)
    role_passwords: dict[str, str] = field(
        default_factory=lambda: {role: secrets.token_hex(8) for role in ROLES}
    )
    _vhosts: list[str] = field(default_factory=list)
    _seeds: int = 0

    def take_vhost(self) -> str:
        if self._vhosts:
            return self._vhosts.pop()
        name = f"chaos-{secrets.token_hex(6)}"
        self.rabbitmq.add_vhost(name)
        return name

    def take_chat(self) -> int:
        self._seeds += 1
        return _FIRST_CHAT - self._seeds

    async def take_database(self) -> str:
        """A new database with the control plane and the tenants; returns its name."""
        name = f"chaos_{secrets.token_hex(6)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
        return name

    async def execute(self, statement: str, database: str = "postgres") -> None:
        async with connected(self.postgres.url(database)) as connection:
            await connection.execute(statement)

    def pass_again(self) -> None:
        pass_again_all(self.proxies.values())

    async def make_template(self) -> None:
        await self.execute(f"CREATE DATABASE {_TEMPLATE}")
        async with connected(self.postgres.url(_TEMPLATE)) as connection:
            await migrate(connection)
            await make_roles(connection, self.role_passwords)
            for slug in SMALL_PROJECTS:
                await create_small_tenant(connection, slug=slug, rows=_SMALL_ROWS)
            await create_small_tenant(connection, slug=LARGE_PROJECT, rows=_LARGE_ROWS)
            await create_demo_tenant(connection, slug=AWKWARD_PROJECT, megabytes=1)
            await self._make_projects(connection)

    async def _make_projects(self, connection: asyncpg.Connection) -> None:
        with_schema = (*SMALL_PROJECTS, LARGE_PROJECT, AWKWARD_PROJECT)
        for project in with_schema:
            await allow_dump(connection, f"tenant_{project}")
        await connection.executemany(
            "INSERT INTO control_plane.projects (id, slug) VALUES ($1, $1)",
            [(project,) for project in (*with_schema, HOPELESS_PROJECTS[0])],
        )

    def open_proxies(self, proxies: Proxies) -> None:
        ports = {
            Server.POSTGRES: self.postgres.port,
            Server.AMQP: self.rabbitmq.port,
            Server.TELEGRAM: urlsplit(self.bot_api.url).port or 0,
        }
        for name in EVERYBODY:
            for server, port in ports.items():
                self.proxies[name, server] = proxies.open(port)


@asynccontextmanager
async def running_servers() -> AsyncIterator[Servers]:
    """Everything is started for the block, and nothing is left behind."""
    with ExitStack() as stack:
        vhosts = [f"chaos-{secrets.token_hex(6)}" for _ in range(_READY_MADE_VHOSTS)]
        rabbitmq = RabbitMqServer(vhosts=vhosts)
        stack.callback(rabbitmq.close)
        rabbitmq.launch()
        directory = ScratchDirectory()
        stack.callback(directory.close)
        postgres = stack.enter_context(PostgresServer())
        chats = [_FIRST_CHAT - number for number in range(_CHATS)]
        bot_api = stack.enter_context(
            BotApi(directory.path, tokens=[BOT_TOKEN], chats=chats, rules=Rules.at(100))
        )
        servers = Servers(postgres, rabbitmq, bot_api, directory.path, _vhosts=vhosts)
        servers.open_proxies(stack.enter_context(Proxies()))
        await servers.make_template()
        await asyncio.to_thread(rabbitmq.wait_ready)
        yield servers


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection past the proxies, as the owner."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "chaos"})
    try:
        yield connection
    finally:
        connection.terminate()
