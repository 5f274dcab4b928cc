"""An exporter that is killed at a named moment: the next one finishes, once, and nothing is left over."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from sandbox.held_commits import commits_held
from sandbox.process import wait_until
from sandbox.stack import Service
from shared.contracts.messages import ExportRequested
from shared.contracts.topology import COMMANDS, EXPORTER
from tests.e2e import gates, steps
from tests.e2e.crew import Crew
from tests.e2e.gates import Gate

#: In its final transaction, after the job's row was changed.
_SUPERSEDES_OLDER_PARTS = "WHERE job_id = $1 AND dump_fence < $2"


async def test_before_its_dump_began(crew: Crew, project: str) -> None:
    """The job is claimed, and the session waits for a tenant's lock: the successor ends it, then dumps."""
    crew.members("exporter", "uploader")
    victim = crew.member("exporter")
    async with gates.locked(crew.stack.database_url, f"tenant_{project}.orders", mode="ACCESS EXCLUSIVE"):
        job_id = await steps.ask(crew.database, project)
        await crew.waiting(Gate.LOCK, "LOCK TABLE")
        victim.kill()
        left = await steps.sessions_of(crew.connection, job_id, fence=1)
        await crew.lapse(job_id)
        crew.member("exporter")

        async def ended() -> bool:
            return await steps.sessions_of(crew.connection, job_id, fence=1) == 0

        await steps.until(ended, "the dead exporter's sessions are ended")
    row = await crew.completed(job_id)

    assert left > 0
    assert row["dump_attempts"] == 2


async def test_after_the_dump_was_written_and_before_it_is_recorded(
    crew: Crew, project: str, database_url: str
) -> None:
    """All files are in the spool and the final transaction is not committed: another dump takes its place."""
    crew.members("exporter", "uploader")
    victim = crew.member("exporter")
    async with gates.locked(crew.stack.database_url, "control_plane.backup_parts"):
        job_id = await steps.ask(crew.database, project)
        await crew.waiting(Gate.LOCK, _SUPERSEDES_OLDER_PARTS)
        victim.kill()
        written = (crew.stack.spool / str(job_id) / "1" / "dump.json").exists()
        row_at_death = await steps.job_row(crew.connection, job_id)
    await crew.lapse(job_id)
    crew.member("exporter")
    row = await crew.completed(job_id)

    assert written
    assert (row_at_death["stage"], row_at_death["dump_fence"]) == ("dumping", None)
    assert row["dump_attempts"] == 2
    comparison = await steps.restored(
        crew.stack, row["backup_id"], schema=f"tenant_{project}", empty_url=database_url
    )
    assert comparison.differences == ()


async def test_when_its_last_commit_was_made_but_not_answered(crew: Crew, project: str) -> None:
    """Nobody told it that the dump is recorded; its files stay, and the uploader has them."""
    crew.members("exporter", "uploader")
    victim = crew.member("exporter")
    url = crew.stack.database_url
    async with AsyncExitStack() as held:
        async with gates.locked(url, "control_plane.backup_parts"):
            job_id = await steps.ask(crew.database, project)
            await crew.waiting(Gate.LOCK, _SUPERSEDES_OLDER_PARTS)
            await held.enter_async_context(commits_held(url))
        await crew.waiting(Gate.COMMIT, "COMMIT", service="exporter")
        victim.kill()
        stage_at_death = (await steps.job_row(crew.connection, job_id))["stage"]
    row = await crew.completed(job_id)

    assert stage_at_death == "dumping"
    assert (row["dump_attempts"], row["dump_fence"]) == (1, 1)


async def test_after_a_command_was_taken_and_before_it_is_acknowledged(
    crew: Crew, project: str, channel: AbstractChannel
) -> None:
    """The request is in PostgreSQL, the broker was not told: it comes again, is known, and is one job."""
    crew.members("exporter", "uploader")
    victim = steps.wait_consuming(crew.member("exporter"))
    request_id = uuid4()
    async with commits_held(crew.stack.database_url):
        exchange = await channel.get_exchange(COMMANDS)
        command = aio_pika.Message(f'{{"project_id": "{project}"}}'.encode(), message_id=str(request_id))
        await exchange.publish(command, ExportRequested.type)
        await crew.waiting(Gate.COMMIT, "INSERT INTO control_plane.job_requests")
        victim.kill()
    successor = crew.member("exporter")
    job_id = await crew.connection.fetchval(_JOB_OF, request_id)
    await crew.completed(job_id)

    def redelivered() -> bool:
        return '"outcome": "known"' in _taken(successor, job_id)

    wait_until(redelivered, seconds=steps.DEADLINE_SECONDS, what="the command comes again")
    queue = await channel.get_queue(EXPORTER.name)
    assert (await queue.declare()).message_count == 0
    assert await crew.connection.fetchval(_JOBS_OF, project) == 1


_JOB_OF = "SELECT job_id FROM control_plane.job_requests WHERE request_id = $1"
_JOBS_OF = "SELECT count(*) FROM control_plane.jobs WHERE project_id = $1"


def _taken(exporter: Service, job_id: UUID) -> str:
    """What it has logged of commands for the job."""
    lines = exporter.log().splitlines()
    return "".join(line for line in lines if "command taken" in line and str(job_id) in line)


@pytest.fixture
async def channel(crew: Crew) -> AsyncIterator[AbstractChannel]:
    """A platform service's connection to the broker."""
    async with await aio_pika.connect(crew.stack.amqp_url) as connection:
        yield await connection.channel(on_return_raises=True)
