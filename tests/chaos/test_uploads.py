"""Uploaders that are killed at each step of an upload; and a checker of such runs that can fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from sandbox.chaos.evidence import Gathering, Killed, Left
from sandbox.chaos.fault import UPLOAD_STEPS, Fault, Only
from sandbox.chaos.plan import Plan, PlannedDump, Sizes, plan_of
from sandbox.chaos.rules import Rule, violations
from sandbox.chaos.seed import Seed, prepared, run_seed
from sandbox.chaos.servers import BOT_TOKEN, Servers, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox.bot_api.store import StoredMessage

pytestmark = pytest.mark.timeout(400)

#: Less than `./run chaos --only uploader` puts into a seed.
_SHORT = Sizes(seconds=0.6, requests=1, faults=2)
#: Together they bring every step.
_SEEDS = (7, 166, 240, 265, 986, 1110, 1298, 1362, 1558, 1930)

_NOTHING_KILLED = Killed(under_way={}, cut_short={}, attempts=2)


@pytest.mark.parametrize("seed", _SEEDS)
async def test_no_upload_is_lost_or_done_twice(servers: Servers, seed: int) -> None:
    """Kill -9 at two steps: one backup per job, and no document twice but one whose call was under way."""
    outcome = await run_seed(servers, plan_of(seed, Only.UPLOADER, _SHORT))
    assert outcome.violations == (), "\n".join((*outcome.timeline, *map(str, outcome.violations)))
    assert outcome.jobs["completed"] + outcome.jobs["failed"] >= 2
    assert outcome.faults.total() == 2


def test_these_seeds_bring_every_step() -> None:
    """And a kill at any moment."""
    plans = [plan_of(seed, Only.UPLOADER, _SHORT) for seed in _SEEDS]
    assert {planned.fault for plan in plans for planned in plan.faults} == {Fault.KILL, *UPLOAD_STEPS}


@pytest.fixture(scope="module")
async def uploaded(servers: Servers) -> AsyncIterator[Seed]:
    """A seed without kills, at rest."""
    plan = Plan(0, Only.UPLOADER, requests=(), faults=(), dumps=(PlannedDump(0, 0.0, parts=2),))
    async with prepared(servers, plan) as seed:
        evidence = await seed.run()
        assert violations(evidence) == []
        yield seed


async def test_a_document_that_was_sent_twice_is_seen(servers: Servers, uploaded: Seed) -> None:
    """For each call that was under way at a kill one is right, if a row suspects it."""
    part = servers.bot_api.messages(uploaded.stack.chat_id)[0]
    await _send_again(servers, part)
    assert set(await _broken(uploaded, _NOTHING_KILLED)) == {Rule.TWICE, Rule.WASTE}

    killed = Killed(under_way={part.sha256: 1}, cut_short={}, attempts=2)
    assert set(await _broken(uploaded, killed)) == {Rule.WASTE}

    await _execute(uploaded, _SUSPECT, part.message_id)
    assert await _broken(uploaded, killed) == {}


async def test_a_job_that_failed_without_kills_is_seen(uploaded: Seed) -> None:
    """Kills may use its attempts up: all of them, and by that name."""
    job_id = await _execute(uploaded, _FAIL, "attempts_exhausted")
    used_up = Killed(under_way={}, cut_short={job_id: 2}, attempts=2)
    once = Killed(under_way={}, cut_short={job_id: 1}, attempts=2)
    assert Rule.NAMED not in await _broken(uploaded, used_up)
    assert "1 of its attempts" in (await _broken(uploaded, once))[Rule.NAMED]

    await _execute(uploaded, _FAIL, "telegram_refused")
    assert "telegram_refused" in (await _broken(uploaded, used_up))[Rule.NAMED]


_SUSPECT = """
    INSERT INTO control_plane.suspected_sends
        (job_id, dump_fence, kind, index, bot_id, chat_id, size_bytes, sha256)
    SELECT job_id, dump_fence, kind, index, bot_id, chat_id, size_bytes, sha256
      FROM control_plane.backup_parts WHERE message_id = $1
"""
_FAIL = "UPDATE control_plane.jobs SET status = 'failed', stage = 'uploading', error_code = $1 RETURNING id"


async def _broken(seed: Seed, killed: Killed) -> dict[Rule, str]:
    """What is violated now, and the words for it."""
    gathering = Gathering(seed.servers, seed.stack, seed.load, [], seed.fleet.exits)
    evidence = await gathering({}, [], Left())
    evidence.killed = killed
    return {violation.rule: str(violation) for violation in violations(evidence)}


async def _execute(seed: Seed, statement: str, *arguments: object) -> Any:  # noqa: ANN401 - what it returns
    async with connected(seed.stack.database_url) as connection:
        return await connection.fetchval(statement, *arguments)


async def _send_again(servers: Servers, message: StoredMessage) -> None:
    """As an uploader does that has forgotten it."""
    content = (servers.bot_api_directory / "blobs" / message.sha256).read_bytes()
    form = aiohttp.FormData({"chat_id": str(message.chat_id)})
    form.add_field("document", content, filename=message.file_name)
    url = f"{servers.bot_api.url}/bot{BOT_TOKEN}/sendDocument"
    async with aiohttp.ClientSession() as http, http.post(url, data=form) as answer:
        assert (await answer.json())["ok"]
