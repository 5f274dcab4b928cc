"""Private servers for every test that wants the real thing; a session owns its ports and directories."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sandbox.postgres import PostgresServer
from sandbox.rabbitmq import RabbitMqServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_READY_MADE_VHOSTS = 40


@dataclass(frozen=True, slots=True)
class Servers:
    """The session's PostgreSQL and RabbitMQ, and the vhosts no test has used yet."""

    postgres: PostgresServer
    rabbitmq: RabbitMqServer
    unused_vhosts: list[str]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Both servers, started side by side: the slower one decides how long it takes."""
    vhosts = [_random_name() for _ in range(_READY_MADE_VHOSTS)]
    with ExitStack() as stack:
        rabbitmq = RabbitMqServer(vhosts=vhosts)
        stack.callback(rabbitmq.close)
        rabbitmq.launch()
        postgres = PostgresServer()
        stack.callback(postgres.close)
        postgres.start()
        rabbitmq.wait_ready()
        yield Servers(postgres, rabbitmq, vhosts)


@pytest.fixture(scope="session")
def postgres_server(servers: Servers) -> PostgresServer:
    """The session's PostgreSQL; whoever stops it starts it again."""
    return servers.postgres


@pytest.fixture(scope="session")
def rabbitmq_server(servers: Servers) -> RabbitMqServer:
    """The session's RabbitMQ; whoever stops it starts it again."""
    return servers.rabbitmq


@pytest.fixture
def vhost_url(servers: Servers) -> str:
    """The AMQP URL of a vhost that no other test sees."""
    if servers.unused_vhosts:
        return servers.rabbitmq.url(servers.unused_vhosts.pop())
    vhost = _random_name()
    servers.rabbitmq.add_vhost(vhost)
    return servers.rabbitmq.url(vhost)


@pytest.fixture
async def database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a new, empty database; it is dropped after the test."""
    name = _random_name()
    await _execute(postgres_server, f'CREATE DATABASE "{name}"')
    yield postgres_server.url(name)
    await _execute(postgres_server, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _execute(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _random_name() -> str:
    return f"test-{secrets.token_hex(6)}"
