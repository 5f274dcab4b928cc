"""Each fault of the stand-in, against an uploader process: nothing lost, nothing unaccounted for.

After each the backup comes back from the chat, or the job has failed by name and completes when it is
requeued after the fault.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from cli.fetch import Fetch
from sandbox.bot_api.errors import Shape
from sandbox.bot_api.knobs import ANY, REFUSALS
from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from sandbox.planted import plant_dump
from sandbox.process import wait_until
from shared.contracts.manifest import Dump
from shared.runtime.signing import MANIFEST, Signer
from shared.storage.spool import open_spool
from shared.telegram.client import TelegramChatStore, open_telegram
from tests.conftest import BOT_TOKEN, CHATS
from tests.e2e import steps
from tests.e2e.accounted import require_accounted
from tests.e2e.crew import PATIENT, Crew

#: So long the uploader waits for an answer.
_ANSWER_SECONDS = 1.5
_SEND = "sendDocument"
_SIZES = (30_000, 20_000, 10_000)
_LARGE = (30_000, 20_000, 12_000_000)
_MOVED_BY = 5_000_000
_SUSPECTED = "SELECT count(*) FROM control_plane.suspected_sends WHERE job_id = $1"

Knob = Callable[[BotApi, int], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """`code`: with which the job fails, None where it passes; `suspected`: documents of unknown outcome."""

    name: str
    turn: Knob
    code: str | None = None
    suspected: int = 0
    sizes: tuple[int, ...] = _SIZES


def refused(status: int, *, times: int = 1, **how: object) -> Knob:
    def turn(api: BotApi, _chat_id: int) -> None:
        api.refuse(_SEND, times=times, status=status, **how)  # type: ignore[arg-type]

    return turn


def lost_rights(status: int) -> Knob:
    """Whatever is called, until a person has seen to it."""

    def turn(api: BotApi, _chat_id: int) -> None:
        api.refuse(ANY, times=1000, status=status)

    return turn


def migrated(api: BotApi, chat_id: int) -> None:
    api.migrate(chat_id, chat_id - _MOVED_BY)


FAULTS = [
    Fault("stored, never answered", lambda api, _: api.hang_after_storing(_SEND, times=1), suspected=1),
    Fault("stored, connection dropped", lambda api, _: api.drop_after_storing(_SEND, times=1), suspected=1),
    Fault("429", lambda api, _: api.flood(_SEND, times=2, retry_after=1)),
    Fault("500, not stored", refused(500), suspected=1),
    Fault("500, stored", refused(500, stored=True), suspected=1),
    Fault("502 page, not stored", refused(502), suspected=1),
    Fault("502 page, stored", refused(502, stored=True), suspected=1),
    Fault("504 page, stored", refused(504, stored=True), suspected=1),
    Fault("502 JSON, stored", refused(502, shape=Shape.JSON, stored=True), suspected=1),
    Fault("temporarily unavailable", refused(400, times=2, description=REFUSALS[400][3])),
    Fault(
        "taken slowly", lambda api, _: api.drip(_SEND, times=1, pause_seconds=60), suspected=1, sizes=_LARGE
    ),
    Fault("supergroup", migrated),
    Fault(
        "no document",
        lambda api, _: api.answer_without_document(times=1),
        "telegram_wrong_receipt",
        suspected=1,
    ),
    *[Fault(words, refused(400, description=words), "telegram_bad_request") for words in REFUSALS[400][:3]],
    Fault("421", refused(421), "telegram_misdirected"),
    Fault("401 for good", lost_rights(401), "telegram_token"),
    Fault("403 for good", lost_rights(403), "telegram_forbidden"),
    *[Fault(f"413 {shape}", refused(413, shape=shape), "telegram_too_large") for shape in Shape],
]


@pytest.fixture(scope="module")
def bot_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BotApi]:
    """One of this module's own: what is refused here is refused to everybody."""
    directory = tmp_path_factory.mktemp("bot-api")
    with BotApi(directory, tokens=[BOT_TOKEN], chats=CHATS, rules=Rules.none()) as api:
        yield api


@pytest.fixture(scope="module")
async def telegram(bot_api: BotApi) -> AsyncIterator[TelegramChatStore]:
    async with open_telegram(BOT_TOKEN, bot_api.url) as store:
        await store.introduce()
        yield store


@pytest.fixture(autouse=True)
def resetting(bot_api: BotApi) -> Iterator[None]:
    yield
    bot_api.reset()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_at_the_second_part(
    crew: Crew, bot_api: BotApi, telegram: TelegramChatStore, tmp_path: Path, fault: Fault
) -> None:
    """The job ends with a backup that comes back, or by name and then with one when it is requeued."""
    _started(crew)
    dump = await _planted(crew, bot_api, fault)
    fault.turn(bot_api, crew.stack.chat_id)
    bot_api.release()

    row = await steps.ended(crew.connection, dump.job_id)
    assert row["error_code"] == fault.code
    await require_accounted(crew.connection, bot_api, _chats(crew))
    if fault.code:
        assert row["status"] == "failed"
        bot_api.reset()
        row = await _requeued(crew, dump)

    assert row["status"] == "completed"
    await require_accounted(crew.connection, bot_api, _chats(crew))
    assert await crew.connection.fetchval(_SUSPECTED, dump.job_id) == fault.suspected
    assert await _brought_back(crew, telegram, row["backup_id"], tmp_path) == dump.stored.sha256


def _started(crew: Crew) -> None:
    if not any(service.child.running for service in crew.stack.services):
        crew.stack.start("uploader", **PATIENT, PGFERRY_TELEGRAM_SECONDS=_ANSWER_SECONDS).wait_ready()


def _chats(crew: Crew) -> Sequence[int]:
    return crew.stack.chat_id, crew.stack.chat_id - _MOVED_BY


async def _planted(crew: Crew, bot_api: BotApi, fault: Fault) -> Dump:
    """A job of which the first part is in the chat, and the second one waits at the stand-in."""
    crew.projects += 1
    bot_api.hold_after(_SEND, 1)
    spool = await open_spool(crew.stack.spool.as_uri(), crew.database)
    dump = await plant_dump(crew.database, spool, f"p{crew.projects}", sizes=fault.sizes)
    wait_until(lambda: bot_api.held(_SEND) == 1, seconds=steps.DEADLINE_SECONDS, what="a part is on its way")
    return dump


async def _requeued(crew: Crew, dump: Dump) -> asyncpg.Record:
    await steps.all_sent(crew.connection)
    done = await asyncio.to_thread(steps.pgferry, crew.stack, "dlq", "requeue", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"job {dump.job_id} goes on" in done.stdout
    return await steps.ended(crew.connection, dump.job_id)


async def _brought_back(crew: Crew, telegram: TelegramChatStore, backup_id: UUID, folder: Path) -> str:
    """The hash of what is fetched from the chat."""
    async with crew.database.session() as session:
        backup = await session.backups.find(backup_id)
    assert backup is not None
    signer = Signer.of([crew.stack.keys.signing_key], purpose=MANIFEST)
    await Fetch(telegram, signer)(backup, (), folder / "back")
    parts = sorted((folder / "back").glob("part-*"))
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
