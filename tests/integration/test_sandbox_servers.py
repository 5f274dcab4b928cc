"""The private servers that all other tests stand on: they come back, and they leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aio_pika
import asyncpg
import pytest

from sandbox.postgres import PostgresServer
from sandbox.process import alive, children_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.rabbitmq import Node


_ROOT = Path(__file__).parents[2]
# An owner of both servers that says where they live and then waits to be killed.
_OWNER = """
import sys
from sandbox.postgres import PostgresServer
from sandbox.rabbitmq import RabbitMqServer

rabbitmq, postgres = RabbitMqServer(), PostgresServer()
rabbitmq.launch()
postgres.start()
print(postgres.directory, rabbitmq.directory, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_postgres() -> Iterator[PostgresServer]:
    """A server that a test may treat badly, beside the session's."""
    with PostgresServer(settings={"application_name": "o'ther"}) as server:
        yield server


async def _query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def _publish(url: str, queue: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True)
        message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, routing_key=queue)


async def _take(url: str, queue: str) -> bytes:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        message = await (await channel.get_queue(queue)).get()
        await message.ack()
        return message.body


def _descendants(pid: int) -> list[int]:
    children = children_of(pid)
    return children + [below for child in children for below in _descendants(child)]


def _program(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _all_servers_below(pid: int) -> bool:
    return {_program(below) for below in _descendants(pid)} >= {"postgres", "epmd", "beam.smp"}


def _nothing_left(processes: list[int], directories: list[str]) -> bool:
    return not any(map(alive, processes)) and not any(map(os.path.exists, directories))


async def test_each_test_has_a_database_of_its_own(database_url: str) -> None:
    """The database is new, UTF-8, and its owner may create whatever it likes."""
    assert await _query(database_url, "SHOW server_encoding") == "UTF8"
    assert await _query(database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


async def test_a_wrong_password_is_refused(postgres_server: PostgresServer) -> None:
    """TCP logins are checked; nobody on the machine walks into a test's database."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _query(postgres_server.url(password="guessed"), "SELECT 1")


async def test_two_postgresql_servers_stand_side_by_side(
    postgres_server: PostgresServer, other_postgres: PostgresServer
) -> None:
    """Each has its own port, data and settings."""
    await _query(other_postgres.url(), "CREATE TABLE only_here ()")
    assert await _query(postgres_server.url(), "SELECT to_regclass('only_here')") is None
    assert await _query(other_postgres.url(), "SHOW application_name") == "o'ther"


async def test_postgresql_data_survive_every_way_to_end_the_server(other_postgres: PostgresServer) -> None:
    """After a fast stop, an immediate one and a kill -9 the committed rows are there, on the same port."""
    url = other_postgres.url()
    await _query(url, "CREATE TABLE kept AS SELECT 1 AS number")
    other_postgres.restart()
    await _query(url, "UPDATE kept SET number = 2")
    other_postgres.restart("immediate")
    await _query(url, "UPDATE kept SET number = 3")
    other_postgres.kill()
    with pytest.raises(OSError, match="Connect call failed"):
        await _query(url, "SELECT 1")
    other_postgres.start()
    assert await _query(url, "SELECT number FROM kept") == 3


async def test_vhosts_are_ready_made_and_more_can_be_added(rabbitmq_node: Node, vhost_url: str) -> None:
    """A test gets a vhost of its own at no cost, and another one when it asks."""
    await _publish(vhost_url, "mine")
    rabbitmq_node.add_vhost("added later")
    await _publish(rabbitmq_node.url("added later"), "mine")
    assert await _take(vhost_url, "mine") == b"kept"
    assert "added later" in rabbitmq_node.ctl("list_vhosts").splitlines()


def test_killing_the_owner_ends_the_servers_and_removes_their_files() -> None:
    """After kill -9 of the process that started them no server, no epmd and no file is left."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        directories = owner.stdout.readline().split()
        wait_until(partial(_all_servers_below, owner.pid), seconds=10, what="the servers run")
        processes = _descendants(owner.pid)
        os.kill(owner.pid, signal.SIGKILL)
    gone = partial(_nothing_left, processes, directories)
    wait_until(gone, seconds=10, what=f"nothing is left of {directories} and {processes}")
