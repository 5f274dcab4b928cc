"""An uploader's use case with everything around it: dumps in a spool, a chat, a control plane."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import pyrage
import pytest

from sandbox.bot_api.process import BotApi
from sandbox.bot_api.store import StoredMessage
from sandbox.planted import described, write_parts
from services.uploader.upload import Upload
from shared.contracts.job import Claim, StageGroup
from shared.contracts.manifest import Dump, Encryption, Facts, Manifest, TableRows
from shared.contracts.topology import DEAD, EVENTS
from shared.runtime.settings import WorkerSettings, load
from shared.runtime.stopping import Stopping
from shared.runtime.worker import Progress, Worker
from shared.storage.attempts import Attempts
from shared.storage.database import Database
from shared.storage.jobs import Job
from shared.storage.lanes import LaneRule
from shared.storage.spool import Prefix, Spool
from shared.telegram.client import TelegramChatStore
from tests.integration.jobs_in import add_job, claim, dump_of, find, lapse, must_claim
from tests.waiting import eventually

#: Of a stand-in that takes whatever comes.
NO_RULE = LaneRule(messages=0)
SIZES = (3000, 2000, 1000)
SIGNING_KEY = "a signing key of the tests, long enough to be one"
FACTS = Facts(tables=(TableRows(name="secret_salaries", rows=7),), warnings=("a secret warning",))
IDENTITY = pyrage.x25519.Identity.generate()

_ROWS = "SELECT * FROM control_plane.backup_parts WHERE job_id = $1 ORDER BY kind DESC, index"
_OUTBOX = "SELECT * FROM control_plane.outbox WHERE exchange IN ($1, $2) ORDER BY sequence"
_BLOCKED = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


@dataclass(frozen=True, slots=True)
class Plant:
    """An uploader's use case with everything around it."""

    database: Database
    owner: asyncpg.Connection
    spool: Spool
    telegram: TelegramChatStore
    api: BotApi
    chat_id: int
    upload: Upload

    async def dumped(
        self,
        options: Mapping[str, object] | None = None,
        *,
        sizes: Sequence[int] = SIZES,
        project: str = "acme",
    ) -> Dump:
        """A new job whose dump lies in the spool, as an exporter leaves it."""
        await add_job(self.database, project, **(options or {}))
        held = await must_claim(self.database)
        contents = [os.urandom(size) for size in sizes]
        dump = _dump(held, contents)
        prefix = self.spool.prefix(held.job_id, held.fence)
        await asyncio.to_thread(write_parts, prefix, dump, contents)
        async with self.database.transaction() as transaction:
            await transaction.jobs.dumped(held, dump)
        return dump

    async def claimed(
        self,
        options: Mapping[str, object] | None = None,
        *,
        sizes: Sequence[int] = SIZES,
        project: str = "acme",
    ) -> Claim:
        await self.dumped(options, sizes=sizes, project=project)
        return await self.claim()

    async def claim(self, *, lease_seconds: float = 60) -> Claim:
        taken = await claim(self.database, StageGroup.UPLOAD, lease_seconds=lease_seconds)
        assert taken is not None
        return taken

    async def claim_after(self, dead: Claim) -> Claim:
        """What another worker gets when this one's lease has lapsed."""
        await lapse(self.owner, dead.job_id)
        successor = await self.claim()
        assert (successor.job_id, successor.fence) == (dead.job_id, dead.fence + 1)
        return successor

    async def run(self, claim: Claim) -> Progress:
        progress = Progress()
        await self.upload(claim, progress)
        return progress

    def prefix(self, claim: Claim) -> Prefix:
        assert claim.dump_fence is not None
        return self.spool.prefix(claim.job_id, claim.dump_fence)

    @property
    def messages(self) -> list[StoredMessage]:
        return self.api.messages(self.chat_id)

    @property
    def names(self) -> list[str]:
        """What is in the chat: `p00000` or `manifest`, in order."""
        return [message.file_name.rpartition(".")[2] for message in self.messages]

    async def rows(self, claim: Claim) -> list[asyncpg.Record]:
        return list(await self.owner.fetch(_ROWS, claim.job_id))

    async def backup(self, claim: Claim) -> asyncpg.Record:
        [record] = await self.owner.fetch(
            "SELECT * FROM control_plane.backups WHERE job_id = $1", claim.job_id
        )
        return record

    async def outbox(self) -> list[asyncpg.Record]:
        """Events and dead letters, in order; not the command that made the job."""
        return list(await self.owner.fetch(_OUTBOX, EVENTS, DEAD))

    async def document(self, message: StoredMessage, directory: Path) -> bytes:
        """A message's content, as anybody with the bot gets it."""
        target = directory / str(message.message_id)
        await self.telegram.fetch(message.file_id, target, size_bytes=message.file_size)
        return await asyncio.to_thread(target.read_bytes)

    async def manifest(self, directory: Path, *, chat_id: int | None = None) -> Manifest:
        """The chat's only manifest, verified."""
        messages = self.api.messages(chat_id or self.chat_id)
        [message] = [message for message in messages if message.file_name.endswith(".manifest")]
        document = json.loads(await self.document(message, directory))
        self.upload.signer.verify(document)
        return Manifest.model_validate(document)

    async def settled(self, job_id: UUID) -> Job:
        """The job when a worker has failed at it and let it go."""
        jobs: list[Job] = []

        async def is_settled() -> bool:
            jobs.append(await find(self.database, job_id))
            return jobs[-1].error_code is not None and not await self.owner.fetchval(
                "SELECT lease_until > now() FROM control_plane.jobs WHERE id = $1", job_id
            )

        await eventually(is_settled)
        return jobs[-1]

    async def held(self) -> None:
        """Return when a document has arrived at the stand-in and waits there."""

        async def is_held() -> bool:
            return self.api.held("sendDocument") > 0

        await eventually(is_held)


def _dump(held: Claim, contents: Sequence[bytes]) -> Dump:
    """The description of these parts: encrypted, so that names of tables are in no clear text."""
    stored, parts = described(contents)
    facts = pyrage.encrypt(FACTS.model_dump_json().encode(), [IDENTITY.to_public()])
    changes = {
        "stored": stored,
        "encryption": Encryption(recipients=("0123456789abcdef",)),
        "facts": base64.b64encode(facts).decode(),
        "parts": parts,
    }
    return dump_of(held).model_copy(update=changes)


@asynccontextmanager
async def running(plant: Plant, claim: Claim, *, hold_after: int) -> AsyncIterator[asyncio.Task[Progress]]:
    """The upload as a task; its call after `hold_after` documents is held by the stand-in."""
    plant.api.hold_after("sendDocument", hold_after)
    task = asyncio.create_task(plant.run(claim))
    try:
        await plant.held()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        plant.api.release()


@asynccontextmanager
async def unrecorded(plant: Plant, claim: Claim) -> AsyncIterator[int]:
    """Let the held call be answered, but its row stay `sending` for the time of the block.

    Yields the id of the server's process that waits to write `sent`.
    """
    async with plant.owner.transaction():
        await plant.owner.execute(
            "SELECT FROM control_plane.backup_parts WHERE job_id = $1 AND status = 'sending' FOR UPDATE",
            claim.job_id,
        )
        plant.api.release()
        yield await _blocked(plant.owner)


async def cancelled(task: asyncio.Task[Progress]) -> None:
    """End the upload at once; what it was about to write is not written."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def terminated(owner: asyncpg.Connection, pid: int) -> None:
    """End this process of the server, and return when it waits for nothing more."""
    await owner.execute("SELECT pg_terminate_backend($1)", pid)

    async def is_gone() -> bool:
        return not await owner.fetch(_BLOCKED)

    await eventually(is_gone)


@asynccontextmanager
async def working(plant: Plant) -> AsyncIterator[None]:
    """A worker for the time of the block; its waits between attempts are too short to see."""
    attempts = attempts_of(plant.database)
    worker = Worker(
        attempts, plant.upload, asyncio.Event(), plant.spool.remove_job, _settings(), slots=1, group="upload"
    )
    stopping = Stopping()
    task = asyncio.create_task(worker.run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await task


def attempts_of(database: Database) -> Attempts:
    return Attempts(database, StageGroup.UPLOAD, service="uploader", owner="tester", lease_seconds=60)


def _settings() -> WorkerSettings:
    environment = {
        "DATABASE_URL": "postgresql://nobody@localhost/nothing",
        "AMQP_URL": "amqp://localhost/",
        "PGFERRY_POLL_SECONDS": "0.05",
        "PGFERRY_RETRY_SCALE": "0.001",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return load(WorkerSettings)


async def _blocked(owner: asyncpg.Connection) -> int:
    found: list[int] = []

    async def is_blocked() -> bool:
        found.extend(record["pid"] for record in await owner.fetch(_BLOCKED))
        return bool(found)

    await eventually(is_blocked)
    return found[0]
