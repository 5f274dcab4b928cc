"""A gateway, or any relay, that is killed at a named moment: what was accepted is done, once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue

from sandbox.held_commits import commits_held
from shared.contracts.messages import ExportRequested
from shared.contracts.topology import COMMANDS
from tests.e2e import gates, steps
from tests.e2e.crew import Crew
from tests.e2e.gates import Gate

_SERVICES = ("gateway", "exporter", "uploader")
_ACCEPT = "INSERT INTO control_plane.job_requests"
_WRITTEN = """
    SELECT (SELECT count(*) FROM control_plane.jobs WHERE project_id = $1)
         + (SELECT count(*) FROM control_plane.job_requests WHERE project_id = $1)
         + (SELECT count(*) FROM control_plane.audit_log WHERE project_id = $1)
         + (SELECT count(*) FROM control_plane.outbox AS o
             WHERE convert_from(o.body, 'UTF8')::jsonb ->> 'project_id' = $1)
"""
NO_ANSWER = (0, None)
_JOBS_OF = "SELECT id FROM control_plane.jobs WHERE project_id = $1"


async def test_before_its_statement_commits(crew: Crew, project: str) -> None:
    """The caller has no answer and nothing was accepted; asking again is a request like any other."""
    crew.members(*_SERVICES)
    async with gates.locked(crew.stack.database_url, "control_plane.audit_log"):
        asking = asyncio.create_task(asyncio.to_thread(crew.post_export, project))
        session = await crew.waiting(Gate.LOCK, _ACCEPT)
        crew.member("gateway").kill()
        answer = await asking
        await crew.end_session(session)
    written = await crew.connection.fetchval(_WRITTEN, project)
    crew.member("gateway")
    again = steps.post_export(crew.stack, project)
    await crew.completed(again)

    assert (answer, written) == (NO_ANSWER, 0)


async def test_after_its_statement_committed_and_before_the_answer(crew: Crew, project: str) -> None:
    """The caller has no answer, but the request was accepted: asking again joins its job."""
    crew.members(*_SERVICES)
    async with gates.claims_held(crew.stack.database_url):
        async with commits_held(crew.stack.database_url):
            asking = asyncio.create_task(asyncio.to_thread(crew.post_export, project))
            await crew.waiting(Gate.COMMIT, _ACCEPT)
            crew.member("gateway").kill()
            answer = await asking
        crew.member("gateway")
        again = crew.post_export(project)
    [job] = await crew.connection.fetch(_JOBS_OF, project)
    await crew.completed(job["id"])

    assert answer == NO_ANSWER
    assert again == (200, job["id"])


async def test_after_the_answer_and_before_the_command_is_published(
    crew: Crew, project: str, commands: AbstractQueue
) -> None:
    """The gateway dies with the command in its outbox: another relay publishes it."""
    crew.members(*_SERVICES)
    url = crew.stack.database_url
    async with AsyncExitStack() as held:
        async with commits_held(url):
            asking = asyncio.create_task(asyncio.to_thread(crew.post_export, project))
            await crew.waiting(Gate.COMMIT, _ACCEPT)
            await held.enter_async_context(gates.locked_after(url, "control_plane.outbox"))
        answer = await asking
        claiming = await crew.waiting(Gate.LOCK, "UPDATE control_plane.outbox", service="gateway")
        crew.member("gateway").kill()
        await crew.end_session(claiming)
        unpublished = await commands.get(fail=False)
    [job] = await crew.connection.fetch(_JOBS_OF, project)
    await crew.completed(job["id"])

    assert (answer, unpublished) == ((202, job["id"]), None)
    assert await copies(commands, job["id"], at_least=1) == 1


async def test_after_the_broker_confirmed_and_before_the_row_is_marked(
    crew: Crew, project: str, commands: AbstractQueue
) -> None:
    """Whichever service's relay it was, another one publishes the row again; it is the same request."""
    crew.members(*_SERVICES)
    url = crew.stack.database_url
    async with gates.claims_held(url), AsyncExitStack() as held:
        async with commits_held(url):
            job_id = await steps.ask(crew.database, project)
            claiming = await crew.waiting(Gate.COMMIT, "UPDATE control_plane.outbox")
            await held.enter_async_context(gates.locked_after(url, "control_plane.outbox"))
        marking = await crew.waiting(Gate.LOCK, "UPDATE control_plane.outbox SET sent_at")
        confirmed = await copies(commands, job_id, at_least=1)
        crew.member(claiming.service).kill()
        await crew.end_session(marking)
    await crew.connection.execute("UPDATE control_plane.outbox SET run_after = now() WHERE sent_at IS NULL")
    crew.member(claiming.service)
    await crew.completed(job_id)

    assert marking.service == claiming.service
    assert confirmed + await copies(commands, job_id, at_least=1) == 2
    assert len(await crew.connection.fetch(_JOBS_OF, project)) == 1


@pytest.fixture
async def commands(crew: Crew) -> AsyncIterator[AbstractQueue]:
    """A listener's copy of every export command that is published."""
    steps.wait_consuming(crew.member("exporter"))
    async with await aio_pika.connect(crew.stack.amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(COMMANDS, ExportRequested.type)
        yield queue


async def copies(commands: AbstractQueue, job_id: UUID, *, at_least: int) -> int:
    """How many commands for the job came since the last call."""
    found = 0

    async def came() -> bool:
        nonlocal found
        while message := await commands.get(no_ack=True, fail=False):
            found += message.correlation_id == str(job_id)
        return found >= at_least

    await steps.until(came, "the command is published")
    return found
