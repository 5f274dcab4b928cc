"""Private servers for every test that wants the real thing; a session owns its ports and directories."""

from __future__ import annotations

import os
import secrets
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import hypothesis
import pytest

from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from sandbox.postgres import PostgresServer
from sandbox.rabbitmq import Node, RabbitMqServer
from sandbox.stack import ROLES, Stack, make_roles
from shared.storage.database import Database, open_database
from shared.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_READY_MADE_VHOSTS = 64

#: Instead of the servers that the system has.
_IN_CONTAINERS = os.environ.get("PGFERRY_TEST_SERVICES") == "containers"

#: A quarter of the default's time on a server that does not wait for its disk.
_QUICKLY = "STRATEGY file_copy"

BOT_TOKEN = "7000001:AAE-test-token-of-nobody-0123456789abcd"
CHATS = range(-1001000000200, -1001000000000)


# The same examples in each run; `--hypothesis-profile=thorough` looks for new ones, and prints how to repeat.
hypothesis.settings.register_profile("thorough", max_examples=2500, print_blob=True, deadline=None)
hypothesis.settings.load_profile("ci")


@dataclass(frozen=True, slots=True)
class Broker:
    """A node and its ready-made vhosts; whichever process first makes a vhost's file has it."""

    node: Node
    vhosts: list[str]

    def take_vhost(self) -> str:
        for vhost in self.vhosts:
            try:
                Path(self.node.directory, f"taken-{vhost}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return vhost
        vhost = _random_name()
        self.node.add_vhost(vhost)
        return vhost


# One broker serves all processes of a test run: it is slow to start, and each test has a vhost of its own.
_OWNED = pytest.StashKey[RabbitMqServer]()
_VHOSTS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the broker, without waiting, in the process that all others belong to."""
    # A shell that runs us in the background has us ignore Ctrl-C, and all that we start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    vhosts = [_random_name() for _ in range(_READY_MADE_VHOSTS)]
    server = _rabbitmq(vhosts)
    server.launch()
    config.stash[_OWNED], config.stash[_VHOSTS] = server, vhosts


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - pytest-xdist has no public type for it
    """Tell a worker process where the broker is."""
    node.workerinput["broker"] = asdict(node.config.stash[_OWNED].node)
    node.workerinput["vhosts"] = node.config.stash[_VHOSTS]


def pytest_unconfigure(config: pytest.Config) -> None:
    if _OWNED in config.stash:
        config.stash[_OWNED].close()


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Broker:
    """The run's RabbitMQ; whoever must stop one starts another."""
    workerinput = getattr(pytestconfig, "workerinput", None)
    if workerinput is None:
        found = Broker(pytestconfig.stash[_OWNED].node, pytestconfig.stash[_VHOSTS])
    else:
        found = Broker(Node(**workerinput["broker"]), workerinput["vhosts"])
    found.node.wait_ready()
    return found


@pytest.fixture(scope="session")
def rabbitmq_node(broker: Broker) -> Node:
    return broker.node


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """PostgreSQL of this process; whoever stops it starts it again."""
    with _postgres() as server:
        yield server


@pytest.fixture
def vhost_url(broker: Broker) -> str:
    """The AMQP URL of a vhost that no other test sees."""
    return broker.node.url(broker.take_vhost())


@pytest.fixture(scope="session")
def role_passwords() -> dict[str, str]:
    """The service roles are shared by the whole server, and so are their passwords."""
    return {role: secrets.token_hex(8) for role in ROLES}


@pytest.fixture(scope="session")
async def control_plane_template(postgres_server: PostgresServer, role_passwords: dict[str, str]) -> str:
    """A database with the newest control plane and the service roles' rights, to be copied."""
    name = _random_name()
    await _execute(postgres_server, f'CREATE DATABASE "{name}"')
    connection = await asyncpg.connect(postgres_server.url(name))
    await migrate(connection)
    await make_roles(connection, role_passwords)
    await connection.close()
    return name


@pytest.fixture
async def control_plane_url(
    postgres_server: PostgresServer, control_plane_template: str
) -> AsyncIterator[str]:
    """The URL of a new database with an empty control plane; it is dropped after the test."""
    name = _random_name()
    await _execute(
        postgres_server, f'CREATE DATABASE "{name}" TEMPLATE "{control_plane_template}" {_QUICKLY}'
    )
    yield postgres_server.url(name)
    await _execute(postgres_server, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def control_plane(control_plane_url: str) -> AsyncIterator[Database]:
    """An open control plane."""
    async with open_database(control_plane_url, name="pgferry-test") as database:
        yield database


@pytest.fixture
async def connection(control_plane_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The owner's look at the control plane's database."""
    connection = await asyncpg.connect(control_plane_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def bot_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BotApi]:
    """The stand-in of this process, without the rule of 20 messages a minute."""
    directory = tmp_path_factory.mktemp("bot-api")
    with BotApi(directory, tokens=[BOT_TOKEN], chats=CHATS, rules=Rules.none()) as api:
        yield api


@pytest.fixture(scope="session")
def unused_chats() -> Iterator[int]:
    return iter(CHATS)


@pytest.fixture
def chat_id(unused_chats: Iterator[int]) -> int:
    """A chat that nobody else posts to."""
    return next(unused_chats)


@pytest.fixture
def stack(
    tmp_path: Path,
    control_plane_url: str,
    vhost_url: str,
    bot_api: BotApi,
    chat_id: int,
    role_passwords: dict[str, str],
) -> Iterator[Stack]:
    """A private pgferry without running services: a test starts those it needs."""
    with Stack(
        directory=tmp_path,
        database_url=control_plane_url,
        amqp_url=vhost_url,
        telegram_api_url=bot_api.url,
        bot_token=BOT_TOKEN,
        chat_id=chat_id,
        role_passwords=role_passwords,
    ) as stack:
        yield stack


@pytest.fixture
async def database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a new, empty database; it is dropped after the test."""
    name = _random_name()
    await _execute(postgres_server, f'CREATE DATABASE "{name}" {_QUICKLY}')
    yield postgres_server.url(name)
    await _execute(postgres_server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _rabbitmq(vhosts: list[str]) -> RabbitMqServer:
    if not _IN_CONTAINERS:
        return RabbitMqServer(vhosts=vhosts)
    from tests.containers import RabbitMqContainer  # noqa: PLC0415 - its package has a group of its own

    return cast("RabbitMqServer", RabbitMqContainer(vhosts=vhosts))


def _postgres() -> PostgresServer:
    if not _IN_CONTAINERS:
        return PostgresServer()
    from tests.containers import PostgresContainer  # noqa: PLC0415 - its package has a group of its own

    return cast("PostgresServer", PostgresContainer())


async def _execute(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _random_name() -> str:
    return f"test-{secrets.token_hex(6)}"
