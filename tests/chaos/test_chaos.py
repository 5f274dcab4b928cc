"""Seeds on real processes, and a checker that can fail: each rule sees what was done to the real parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import aio_pika
import aiohttp
import asyncpg
import pytest

from sandbox.chaos.evidence import LISTENER, Evidence, Gathering, sessions_left
from sandbox.chaos.fault import UPLOAD_STEPS, Fault, Only
from sandbox.chaos.load import Asked, Fate
from sandbox.chaos.plan import Plan, PlannedRequest, Sizes, Way, plan_of
from sandbox.chaos.restoring import Restoring
from sandbox.chaos.rules import Rule, violations, waste
from sandbox.chaos.seed import Seed, prepared, run_seed
from sandbox.chaos.servers import BOT_TOKEN, Servers, connected
from shared.contracts.topology import COMMANDS, DEAD, DEAD_EXPORTER, UNREADABLE
from shared.messaging import connection as amqp
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aio_pika.abc import AbstractChannel

pytestmark = pytest.mark.timeout(400)

#: Less than `./run chaos` puts into a seed: the suite has other things to do.
_SHORT = Sizes(seconds=12, requests=14, faults=6)


@pytest.mark.parametrize(("seed", "only"), [(1, None), (2, Only.BROKER)])
async def test_nothing_accepted_is_lost_and_nothing_done_twice(
    servers: Servers, seed: int, only: Only | None
) -> None:
    """Faults of a recorded seed; then all that was accepted has ended, and all parts agree about how."""
    outcome = await run_seed(servers, plan_of(seed, only, _SHORT))
    assert outcome.violations == (), "\n".join((*outcome.timeline, *map(str, outcome.violations)))
    assert outcome.jobs["completed"] >= 1
    assert outcome.faults.total() >= 3


def test_a_seed_is_the_same_each_time() -> None:
    """The plan depends on the seed and the part that is hit, and on nothing else."""
    assert plan_of(7) == plan_of(7)
    assert plan_of(7) != plan_of(8)
    assert plan_of(7, Only.BROKER).faults != plan_of(7).faults


def test_every_fault_comes_up() -> None:
    """A hundred seeds bring every kind but the kills in an upload, which the uploader's own bring; each
    part's seeds bring only faults that it must survive.
    """
    drawn = {planned.fault for seed in range(100) for planned in plan_of(seed).faults}
    assert drawn == set(Fault) - set(UPLOAD_STEPS)
    of_uploads = [planned for seed in range(100) for planned in plan_of(seed, Only.UPLOADER).faults]
    assert {planned.fault for planned in of_uploads} == {Fault.KILL, *UPLOAD_STEPS}
    of_telegram = [planned for seed in range(20) for planned in plan_of(seed, Only.TELEGRAM).faults]
    for planned in (*of_uploads, *of_telegram):
        assert planned.victim is None or planned.victim.startswith("uploader")


@dataclass(slots=True)
class AtRest:
    """A seed without faults that has come to rest, to be tampered with and judged again."""

    servers: Servers
    seed: Seed
    statuses: dict[UUID, str]

    async def evidence(self, *, restore: bool = False) -> Evidence:
        seed = self.seed
        gathering = Gathering(self.servers, seed.stack, seed.load, [], seed.fleet.exits)
        restless = await seed.open_ones()
        evidence = await gathering(self.statuses, restless, await sessions_left(seed.stack.database_url))
        if restore:
            evidence.restored = await Restoring(self.servers, seed.stack).sample(
                evidence.manifests, evidence.chat, seed=1, count=9
            )
        return evidence

    async def broken(self, *, restore: bool = False) -> dict[Rule, str]:
        """What is violated now, and the words for it."""
        found = violations(await self.evidence(restore=restore))
        return {violation.rule: str(violation) for violation in found}

    async def execute(self, statement: str, *arguments: object) -> None:
        async with connected(self.seed.stack.database_url) as connection:
            await connection.execute(statement, *arguments)

    async def one(self, query: str) -> Any:  # noqa: ANN401 - whatever the column holds
        async with connected(self.seed.stack.database_url) as connection:
            value = await connection.fetchval(query)
        assert value is not None
        return value

    @asynccontextmanager
    async def on_a_copy(self) -> AsyncIterator[None]:
        """What is done to the database in the block is done to a copy of it."""
        original = self.seed.stack.database_url
        name = f"copy_{uuid4().hex}"
        await self.servers.execute(
            f"CREATE DATABASE {name} TEMPLATE {original.rpartition('/')[2]} STRATEGY file_copy"
        )
        self.seed.stack.database_url = self.servers.postgres.url(name)
        try:
            yield
        finally:
            self.seed.stack.database_url = original
            await self.servers.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        async with amqp.connected(self.seed.stack.amqp_url, name="tamper") as connection:
            yield await connection.channel()

    @asynccontextmanager
    async def without_one_of(self, queue_name: str) -> AsyncIterator[None]:
        """A message is gone from the queue for the block."""
        async with self.channel() as channel:
            message = await (await channel.get_queue(queue_name)).get()
            yield
            await message.nack(requeue=True)


@pytest.fixture(scope="module")
async def at_rest(servers: Servers) -> AsyncIterator[AtRest]:
    """Jobs that completed, one of them in many parts; one that failed; a message that nobody can read."""
    requests = (
        _request(0, Way.HTTP, "large", compression="none"),
        _request(1, Way.AMQP, "small-1", format="tar"),
        _request(2, Way.AMQP, "schemaless"),
        _request(3, Way.GARBAGE, "small-2"),
    )
    async with prepared(servers, Plan(seed=0, only=None, requests=requests, faults=())) as seed:
        await seed.fleet.start_all(("gateway-1", "exporter-1", "uploader-1"))
        seed.timeline.begin()
        await seed.load.run(seed.plan)
        await eventually(lambda: _ended(seed), seconds=90)
        statuses = await seed.statuses()
        await seed.fleet.terminate_all()
        yield AtRest(servers, seed, statuses)


def _request(number: int, way: Way, project: str, **options: str) -> PlannedRequest:
    asked = {"project_id": project, **options}
    return PlannedRequest(number, 0.0, way, "gateway-1", asked, None, twice=False, cancel_after=None)


async def _ended(seed: Seed) -> bool:
    async with connected(seed.stack.database_url) as connection:
        jobs = await connection.fetchval("SELECT count(*) FROM control_plane.jobs")
        letters = await connection.fetchval(
            "SELECT count(*) FROM control_plane.outbox WHERE routing_key = 'unreadable'"
        )
        listed = await connection.fetchval(
            "SELECT max(entry_count) FROM control_plane.catalogues WHERE pinned_at IS NOT NULL"
        )
    return jobs == 3 and letters == 1 and listed == 2 and not await seed.open_ones()


async def test_a_seed_without_faults_breaks_no_rule(at_rest: AtRest) -> None:
    """Backups restore, too, and nothing in the chat is waste."""
    evidence = await at_rest.evidence(restore=True)
    assert violations(evidence) == []
    assert len(evidence.restored) == 2
    assert waste(evidence) == []
    assert (
        max(len(manifest.parts) for manifest in evidence.manifests.values() if not isinstance(manifest, str))
        > 2
    )


@pytest.mark.parametrize(
    ("rule", "statement"),
    [
        (Rule.BACKUP, "DELETE FROM control_plane.backups WHERE format = 'tar'"),
        (Rule.BACKUP, "UPDATE control_plane.backups SET job_id = gen_random_uuid()"),
        (Rule.MANIFEST, "UPDATE control_plane.backups SET manifest_sha256 = repeat('0', 64)"),
        (Rule.MANIFEST, "UPDATE control_plane.backups SET manifest_message_id = 999999"),
        (Rule.CATALOGUE, "UPDATE control_plane.backups SET manifest_message_id = 999999"),
        (Rule.WASTE, "DELETE FROM control_plane.catalogues"),
        (Rule.REST, "UPDATE control_plane.outbox SET sent_at = NULL"),
        (Rule.ACCEPTED, "DELETE FROM control_plane.audit_log WHERE actor = 'app:chaos-r1'"),
    ],
)  # fmt: skip
async def test_a_row_that_is_not_right_is_seen(at_rest: AtRest, rule: Rule, statement: str) -> None:
    """Each on a copy of the database: rows that are gone, or say something else than the chat does."""
    async with at_rest.on_a_copy():
        await at_rest.execute(statement)
        assert rule in await at_rest.broken()


async def test_a_part_that_is_altered_or_gone_is_seen(at_rest: AtRest) -> None:
    """The document's bytes are looked at, whatever the stand-in says of them."""
    part = await at_rest.one(
        "SELECT sha256 FROM control_plane.backup_parts WHERE kind = 'part' AND index = 1"
    )
    path = at_rest.servers.bot_api_directory / "blobs" / part
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert "was altered" in (await at_rest.broken())[Rule.PART]
        path.unlink()
        assert "was altered" in (await at_rest.broken())[Rule.PART]
    finally:
        path.write_bytes(content)
    assert await at_rest.broken() == {}


async def test_a_manifest_that_another_key_signed_is_seen(at_rest: AtRest) -> None:
    """Its hash is the recorded one, and it is not authentic all the same."""
    keys = at_rest.seed.stack.keys
    object.__setattr__(keys, "signing_key", keys.signing_key[::-1])
    try:
        assert "not authentic" in (await at_rest.broken())[Rule.MANIFEST]
    finally:
        object.__setattr__(keys, "signing_key", keys.signing_key[::-1])


async def test_a_backup_of_other_data_is_seen(at_rest: AtRest) -> None:
    """A row of the tenant that is not in the backup."""
    async with at_rest.on_a_copy():
        await at_rest.execute("INSERT INTO \"tenant_small-1\".notes VALUES ('lost')")
        assert "Content" in (await at_rest.broken(restore=True))[Rule.RESTORE]


@pytest.mark.parametrize(
    ("rule", "queue"),
    [(Rule.DEAD_LETTER, DEAD_EXPORTER.name), (Rule.UNREADABLE, UNREADABLE.name), (Rule.EVENT, LISTENER)],
)
async def test_a_message_that_is_gone_is_seen(at_rest: AtRest, rule: Rule, queue: str) -> None:
    """A dead letter, an unreadable message, an event."""
    async with at_rest.without_one_of(queue):
        assert set(await at_rest.broken()) == {rule}

    async def back() -> bool:
        return await at_rest.broken() == {}

    await eventually(back)


async def test_a_message_too_many_is_seen(at_rest: AtRest) -> None:
    """A second letter of a job that has failed, one of a job that has not, a command that nobody took."""
    failed = await at_rest.one("SELECT id FROM control_plane.jobs WHERE status = 'failed'")
    async with at_rest.channel() as channel:
        dead, commands = await channel.get_exchange(DEAD), await channel.get_exchange(COMMANDS)
        for job_id in (failed, uuid4()):
            letter = aio_pika.Message(b"{}", message_id=str(uuid4()), correlation_id=str(job_id))
            await dead.publish(letter, "dead.exporter")
            assert set(await at_rest.broken()) == {Rule.DEAD_LETTER}
            await _take(at_rest, DEAD_EXPORTER.name, letter.message_id)
        await commands.publish(aio_pika.Message(b"{}"), "export.requested.v1")
        assert set(await at_rest.broken()) == {Rule.QUEUE}
        await (await channel.get_queue("pgferry.exporter.v1")).purge()


async def test_a_request_that_was_lost_is_seen(at_rest: AtRest) -> None:
    """Accepted by HTTP with a job that does not answer, and by AMQP with no job at all."""
    asked = at_rest.seed.load.asked
    lost = Asked("lost", Way.HTTP, "small-1", Fate.ACCEPTED, job_id=uuid4())
    unheard = Asked("unheard", Way.AMQP, "small-1", Fate.ACCEPTED, confirmed_at=[1.0])
    for one in (lost, unheard):
        asked.append(one)
        assert one.name in (await at_rest.broken())[Rule.ACCEPTED]
        asked.remove(one)


async def test_a_message_that_became_two_jobs_is_seen(at_rest: AtRest) -> None:
    """Its id says that it is one request."""
    sql = """
        INSERT INTO control_plane.audit_log (actor, action, job_id)
        SELECT 'app:chaos-r1', 'export.request', id FROM control_plane.jobs WHERE project_id = 'large'
    """
    asked = next(one for one in at_rest.seed.load.asked if one.name == "r1")
    async with at_rest.on_a_copy():
        await at_rest.execute(sql)
        assert await at_rest.broken() == {}
        asked.message_id = "order-1"
        assert "r1, message order-1, has 2 jobs" in (await at_rest.broken())[Rule.ONCE]
        asked.message_id = None


async def test_a_message_whose_queue_was_deleted_may_be_lost(at_rest: AtRest) -> None:
    """Confirmed before the deletion is no promise; confirmed after it is."""
    seed = at_rest.seed
    one = Asked("unlucky", Way.AMQP, "small-1", Fate.ACCEPTED, confirmed_at=[1.0])
    seed.load.asked.append(one)
    try:
        for deleted_at, promised in ((2.0, False), (0.5, True)):
            gathering = Gathering(at_rest.servers, seed.stack, seed.load, [deleted_at], [])
            evidence = await gathering({}, [], await sessions_left(seed.stack.database_url))
            assert (one in evidence.accepted) is promised
    finally:
        seed.load.asked.remove(one)


async def test_what_is_left_on_the_disk_is_seen(at_rest: AtRest) -> None:
    """A file in the spool or TMPDIR, and a prefix; but the prefix of a failed job is kept."""
    stack = at_rest.seed.stack
    for path in (stack.spool / "x.staging", at_rest.seed.fleet.tmp / "passfile"):
        path.touch()
        assert set(await at_rest.broken()) == {Rule.FILE}
        path.unlink()
    for status, rules in (("completed", {Rule.PREFIX}), ("failed", set())):
        job = await at_rest.one(f"SELECT id FROM control_plane.jobs WHERE status = '{status}' LIMIT 1")
        (stack.spool / str(job)).mkdir()
        assert set(await at_rest.broken()) == rules
        (stack.spool / str(job)).rmdir()


async def test_a_process_that_is_left_is_seen(at_rest: AtRest) -> None:
    """A pg_dump of this seed's database."""
    with _named_pg_dump(at_rest.seed.stack.database_url):
        assert "pg_dump" in (await at_rest.broken())[Rule.PROCESS]


async def test_a_process_that_ends_unasked_is_seen(at_rest: AtRest) -> None:
    """It is started again, as a supervisor does, and not forgotten."""
    fleet = at_rest.seed.fleet
    fleet.start("gateway-1")
    service = fleet.service("gateway-1")
    assert service is not None
    os.kill(service.child.pid, signal.SIGKILL)

    async def noticed() -> bool:
        fleet.look()
        return bool(fleet.exits)

    try:
        await eventually(noticed)
        assert fleet.runs("gateway-1")
        assert "gateway-1 ended with -9" in (await at_rest.broken())[Rule.PROCESS]
    finally:
        fleet.kill("gateway-1")
        fleet.exits.clear()


async def test_an_error_that_nobody_foresaw_is_seen(at_rest: AtRest) -> None:
    """A line in a service's log, with the last words of the exception."""
    log = at_rest.seed.stack.directory / "exporter-99.log"
    line = {"event": "a duty failed", "level": "error", "exception": "Traceback\n…\nKeyError: 'x'"}
    log.write_text(json.dumps(line) + "\n")
    assert "KeyError: 'x'" in (await at_rest.broken())[Rule.SURPRISE]
    log.unlink()


@pytest.mark.parametrize("role", ["gateway", "dump"])
async def test_a_session_that_is_left_is_seen(at_rest: AtRest, role: str) -> None:
    """One of the control plane that holds a transaction open; any on the tenants' server."""
    connection = await asyncpg.connect(at_rest.seed.stack.url_as(role))
    try:
        await connection.execute("BEGIN")

        async def seen() -> bool:
            return set(await at_rest.broken()) == {Rule.SESSION}

        await eventually(seen)
    finally:
        await connection.close()


async def test_a_document_that_nobody_knows_is_seen(at_rest: AtRest) -> None:
    """One document for each suspected send is counted, any other is a fault. The last test: they stay."""
    part = await at_rest.one(
        "SELECT sha256 FROM control_plane.backup_parts WHERE kind = 'part' AND index = 1"
    )
    content = (at_rest.servers.bot_api_directory / "blobs" / part).read_bytes()
    await _send_document(at_rest, content)
    assert set(await at_rest.broken()) == {Rule.WASTE}

    await at_rest.execute(
        "INSERT INTO control_plane.suspected_sends"
        " (job_id, dump_fence, kind, index, bot_id, chat_id, size_bytes, sha256)"
        " SELECT job_id, dump_fence, kind, index, bot_id, chat_id, size_bytes, sha256"
        "   FROM control_plane.backup_parts WHERE kind = 'part' AND index = 1 LIMIT 1"
    )
    evidence = await at_rest.evidence()
    assert (len(waste(evidence)), violations(evidence)) == (1, [])

    await _send_document(at_rest, content)
    assert set(await at_rest.broken()) == {Rule.WASTE}


async def _take(at_rest: AtRest, queue_name: str, message_id: str | None) -> None:
    """Remove this one message; the others go back when the channel is closed."""
    async with at_rest.channel() as channel:
        queue = await channel.get_queue(queue_name)
        while message := await queue.get(fail=False):
            if message.message_id == message_id:
                await message.ack()


async def _send_document(at_rest: AtRest, content: bytes) -> None:
    """As some other program with the bot's token does."""
    form = aiohttp.FormData({"chat_id": str(at_rest.seed.stack.chat_id)})
    form.add_field("document", content, filename="stray.bin")
    url = f"{at_rest.servers.bot_api.url}/bot{BOT_TOKEN}/sendDocument"
    async with aiohttp.ClientSession() as http, http.post(url, data=form) as answer:
        assert (await answer.json())["ok"]


@contextmanager
def _named_pg_dump(database_url: str) -> Iterator[None]:
    """A process that looks like pg_dump of this database, and does nothing."""
    arguments = ["pg_dump", "-c", "import time; time.sleep(60)", f"--dbname={database_url}"]
    process = subprocess.Popen(arguments, executable=sys.executable)
    try:
        yield
    finally:
        process.kill()
        process.wait()
