"""An uploader that is killed at a named moment: the next one finishes, and one backup is recorded."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import pytest

from sandbox.bot_api.process import BotApi
from sandbox.bot_api.store import StoredMessage
from sandbox.held_commits import commits_held
from sandbox.process import wait_until
from shared.storage.cancel import cancel
from tests.e2e import gates, steps
from tests.e2e.crew import Crew
from tests.e2e.gates import Gate


@pytest.fixture(autouse=True)
def resetting(bot_api: BotApi) -> Iterator[None]:
    yield
    bot_api.reset()


async def test_before_its_first_part_is_stored(crew: Crew, project: str, bot_api: BotApi) -> None:
    """Its call was made, and nothing is in the chat: the successor sends everything, once."""
    crew.members("exporter", "uploader")
    victim = crew.member("uploader")
    bot_api.hold_after("sendDocument", 0)
    job_id = await steps.ask(crew.database, project)
    wait_for_call(bot_api)
    victim.kill()
    bot_api.release()
    await crew.lapse(job_id)
    crew.member("uploader")
    row = await crew.completed(job_id)

    assert (row["dump_attempts"], row["upload_attempts"]) == (1, 2)
    assert [Path(message.file_name).suffix for message in sent(bot_api, crew, job_id)] == [
        ".p00000",
        ".manifest",
    ]


async def test_after_a_part_was_stored_and_before_its_answer(
    crew: Crew, project: str, bot_api: BotApi, database_url: str
) -> None:
    """Nobody knows whether it arrived: it is sent again, and the manifest names the second message."""
    crew.members("exporter", "uploader")
    victim = crew.member("uploader")
    bot_api.hang_after_storing("sendDocument", times=1)
    job_id = await steps.ask(crew.database, project)
    wait_for_call(bot_api)
    victim.kill()
    bot_api.release()
    await crew.lapse(job_id)
    crew.member("uploader")
    row = await crew.completed(job_id)

    first, second, _ = sent(bot_api, crew, job_id)
    assert (first.file_name, first.sha256) == (second.file_name, second.sha256)
    assert await crew.connection.fetchval(_MESSAGE_OF_PART, job_id) == second.message_id
    comparison = await steps.restored(
        crew.stack, row["backup_id"], schema=f"tenant_{project}", empty_url=database_url
    )
    assert comparison.differences == ()


async def test_after_the_manifest_was_sent_and_before_the_backup_is_recorded(
    crew: Crew, project: str, bot_api: BotApi
) -> None:
    """Everything is in the chat and the final transaction is not committed: the same messages count."""
    crew.members("exporter", "uploader")
    victim = crew.member("uploader")
    async with gates.locked(crew.stack.database_url, "control_plane.backups"):
        job_id = await steps.ask(crew.database, project)
        await crew.waiting(Gate.LOCK, "INSERT INTO control_plane.backups")
        victim.kill()
        row_at_death = await steps.job_row(crew.connection, job_id)
    await crew.lapse(job_id)
    crew.member("uploader")
    await crew.completed(job_id)

    assert (row_at_death["stage"], row_at_death["backup_id"]) == ("uploading", None)
    part, manifest = sent(bot_api, crew, job_id)
    assert await crew.connection.fetchval(_MESSAGE_OF_PART, job_id) == part.message_id
    assert await crew.connection.fetchval(_MESSAGE_OF_MANIFEST, job_id) == manifest.message_id


async def test_after_its_last_commit_and_before_the_spool_is_emptied(
    crew: Crew, project: str, bot_api: BotApi
) -> None:
    """The backup stands although nobody heard of it; the files that it left are swept."""
    crew.members("exporter", "uploader")
    victim = crew.member("uploader")
    url = crew.stack.database_url
    async with AsyncExitStack() as held:
        async with gates.locked(url, "control_plane.backups"):
            job_id = await steps.ask(crew.database, project)
            await crew.waiting(Gate.LOCK, "INSERT INTO control_plane.backups")
            await held.enter_async_context(commits_held(url))
        await crew.waiting(Gate.COMMIT, "COMMIT", service="uploader")
        victim.kill()
        stage_at_death = (await steps.job_row(crew.connection, job_id))["stage"]
        left = dumps(crew, job_id)
    crew.member("uploader")
    row = await crew.completed(job_id)

    assert (stage_at_death, left) == ("uploading", ["1"])
    assert row["upload_attempts"] == 1
    assert len(sent(bot_api, crew, job_id)) == 2


async def test_after_its_job_was_cancelled_and_before_the_spool_is_emptied(
    crew: Crew, project: str, bot_api: BotApi
) -> None:
    """The job is cancelled; the files that it left are swept, and the project's next job is done."""
    crew.members("exporter", "uploader")
    victim = crew.member("uploader")
    bot_api.hold_after("sendDocument", 0)
    job_id = await steps.ask(crew.database, project)
    wait_for_call(bot_api)
    async with commits_held(crew.stack.database_url):
        assert await cancel(crew.database, job_id, actor="test") is not None
        await crew.waiting(Gate.COMMIT, "COMMIT", service="uploader")
        victim.kill()
        left = dumps(crew, job_id)
    bot_api.release()
    crew.member("uploader")
    await crew.completed(await steps.ask(crew.database, project))

    assert left == ["1"]
    assert (await steps.job_row(crew.connection, job_id))["status"] == "cancelled"
    assert sent(bot_api, crew, job_id) == []


_MESSAGE_OF_PART = "SELECT message_id FROM control_plane.backup_parts WHERE job_id = $1 AND kind = 'part'"
_MESSAGE_OF_MANIFEST = "SELECT manifest_message_id FROM control_plane.backups WHERE job_id = $1"


def wait_for_call(bot_api: BotApi) -> None:
    wait_until(
        lambda: bot_api.held("sendDocument") == 1,
        seconds=steps.DEADLINE_SECONDS,
        what="a document is on its way",
    )


def sent(bot_api: BotApi, crew: Crew, job_id: UUID) -> list[StoredMessage]:
    """The job's documents in the chat, in order."""
    return [message for message in bot_api.messages(crew.stack.chat_id) if str(job_id) in message.caption]


def dumps(crew: Crew, job_id: UUID) -> list[str]:
    """The fences of the job's dumps in the spool."""
    return sorted(path.name for path in (crew.stack.spool / str(job_id)).iterdir())
