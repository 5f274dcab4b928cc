"""One running pgferry for all tests of a module in which services are killed one after the other."""

from collections.abc import AsyncIterator, Iterator

import pytest

from sandbox.bot_api.process import BotApi
from sandbox.postgres import PostgresServer
from sandbox.stack import Stack
from tests.conftest import BOT_TOKEN, Broker
from tests.e2e.crew import Crew, crew_of
from tests.integration.jobs_in import copied_database


@pytest.fixture(scope="module")
async def crew(
    postgres_server: PostgresServer,
    control_plane_template: str,
    broker: Broker,
    bot_api: BotApi,
    unused_chats: Iterator[int],
    role_passwords: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Crew]:
    async with copied_database(postgres_server, control_plane_template) as url:
        stack = Stack(
            directory=tmp_path_factory.mktemp("crew"),
            database_url=url,
            amqp_url=broker.node.url(broker.take_vhost()),
            telegram_api_url=bot_api.url,
            bot_token=BOT_TOKEN,
            chat_id=next(unused_chats),
            role_passwords=role_passwords,
        )
        with stack:
            async with crew_of(stack) as crew:
                yield crew


@pytest.fixture
async def project(crew: Crew) -> str:
    """A project that nobody else asks for."""
    return await crew.new_project()
