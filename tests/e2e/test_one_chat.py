"""Two uploaders, one chat and its rule, many jobs: nobody is told to wait, and nobody waits for long."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from sandbox.planted import plant_dump
from sandbox.stack import Stack
from shared.storage.database import Database
from shared.storage.spool import open_spool
from tests.conftest import BOT_TOKEN
from tests.e2e import steps

#: Telegram's 20 messages in 60 s at 1:100.
_WINDOW_SECONDS = 0.6
_AT_A_HUNDREDTH = {
    "PGFERRY_LANE_MESSAGES": 20,
    "PGFERRY_LANE_WINDOW_SECONDS": _WINDOW_SECONDS,
    "PGFERRY_BOT_WINDOW_SECONDS": 0.01,
}
_SMALL_JOBS = 100
_PARTS_OF_THE_LARGE = 200

_ENDED = "SELECT count(*) FROM control_plane.jobs WHERE status IN ('completed', 'failed')"
_BACKUPS = "SELECT job_id, part_count FROM control_plane.backups"
#: Whose the documents were that left until the last small job had sent its last one.
_SHARE = """
    WITH small AS (SELECT max(sent_at) AS last FROM control_plane.backup_parts WHERE job_id <> $1)
    SELECT (count(*) FILTER (WHERE job_id <> $1))::float8 / count(*)
      FROM control_plane.backup_parts, small WHERE sent_at <= small.last
"""
#: Seconds from the first document to the last small job's end, and to the large one's.
_SECONDS = """
    SELECT extract(epoch FROM max(finished_at) FILTER (WHERE id <> $1) - first.at)::float8 AS small,
           extract(epoch FROM max(finished_at) FILTER (WHERE id = $1) - first.at)::float8 AS large
      FROM control_plane.jobs, (SELECT min(sending_at) AS at FROM control_plane.backup_parts) AS first
     GROUP BY first.at
"""


@pytest.fixture
def bot_api(tmp_path: Path, chat_id: int) -> Iterator[BotApi]:
    """A stand-in that refuses the 21st message in a window."""
    directory = tmp_path / "bot-api"
    with BotApi(directory, tokens=[BOT_TOKEN], chats=[chat_id], rules=Rules.at(100)) as api:
        yield api


async def test_many_small_jobs_beside_a_large_one(
    stack: Stack,
    bot_api: BotApi,
    connection: asyncpg.Connection,
    control_plane: Database,
) -> None:
    """The chat never asks to wait. The large job is first in line, and the small ones have most turns all the
    same: they end before it does.
    """
    large, *small = await _planted(stack, control_plane)
    for _ in range(2):
        stack.start("uploader", **_AT_A_HUNDREDTH)

    async def all_ended() -> bool:
        ended: int = await connection.fetchval(_ENDED)
        return ended == 1 + _SMALL_JOBS

    await steps.until(all_ended, "all jobs have ended")
    share = await connection.fetchval(_SHARE, large)
    seconds = await connection.fetchrow(_SECONDS, large)
    assert seconds is not None
    told = f"small jobs had {share:.0%} of the turns and {seconds['small']:.1f} of {seconds['large']:.1f} s"
    print(told)  # noqa: T201 - `-rP` shows it

    assert bot_api.calls()["sendDocument"] == {200: _PARTS_OF_THE_LARGE + 1 + 2 * _SMALL_JOBS}
    backups = [tuple(row) for row in await connection.fetch(_BACKUPS)]
    assert sorted(backups) == sorted([(large, _PARTS_OF_THE_LARGE), *((job_id, 1) for job_id in small)])
    assert share > 0.55, told
    assert seconds["small"] < seconds["large"], told


async def _planted(stack: Stack, database: Database) -> Sequence[UUID]:
    """The large job, which is the first in line, and the small ones."""
    spool = await open_spool(stack.spool.as_uri(), database)
    sizes = {"large": [4096] * _PARTS_OF_THE_LARGE} | {f"small-{n}": [2048] for n in range(_SMALL_JOBS)}
    dumps = [await plant_dump(database, spool, name, sizes=parts) for name, parts in sizes.items()]
    return [dump.job_id for dump in dumps]
