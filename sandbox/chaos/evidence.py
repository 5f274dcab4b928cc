"""Everything there is to see after a seed, on every side: database, broker, chat, disk, processes.

A seed gathers it when all is at rest and the services have ended; `rules` judges it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sandbox.chaos.history import surprises
from sandbox.chaos.load import Asked, Fate, Load
from sandbox.chaos.plan import Way
from sandbox.chaos.servers import Servers, connected
from shared.contracts.manifest import Manifest
from shared.contracts.topology import (
    DEAD_EXPORTER,
    DEAD_UPLOADER,
    EXPORTER,
    UNREADABLE,
    UNROUTED_QUEUE,
    UPLOADER,
)
from shared.messaging import connection as amqp
from shared.runtime.catalogue_document import decoded
from shared.runtime.signing import CATALOGUE, MANIFEST, NotAuthentic, Signer
from shared.storage.spool import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg
    from aio_pika.abc import AbstractConnection

    from sandbox.bot_api.store import StoredMessage
    from sandbox.chaos.fleet import Exit
    from sandbox.chaos.planting import Planting
    from sandbox.stack import Stack
    from shared.contracts.catalogue import Catalogue

WORK_QUEUES: Final = (EXPORTER.name, UPLOADER.name)
DEAD_QUEUES: Final = (DEAD_EXPORTER.name, DEAD_UPLOADER.name)
#: Bound by a run to all events: somebody who listens.
LISTENER: Final = "chaos.events"
_KEPT_QUEUES: Final = (*DEAD_QUEUES, UNREADABLE.name, UNROUTED_QUEUE.name, LISTENER)

_AUDITED: Final = """
    SELECT actor, job_id FROM control_plane.audit_log WHERE action IN ('export.request', 'export.coalesce')
"""
_SESSIONS: Final = """
    SELECT pid, usename, application_name, state, query,
           extract(epoch FROM clock_timestamp() - state_change)::float8 AS seconds
      FROM pg_stat_activity
     WHERE datname = current_database() AND usename LIKE 'pgferry_%'
"""
_IDLE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Letter:
    """One message that lay in a queue."""

    message_id: str | None
    app_id: str | None
    job_id: UUID | None
    type: str | None
    original_id: str | None = None
    """Of an unreadable message: the id it came with."""


@dataclass(slots=True)
class Left:
    """What must not be there any more, as sentences."""

    processes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    prefixes: list[UUID] = field(default_factory=list)
    idle_sessions: list[str] = field(default_factory=list)
    tenant_sessions: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Killed:
    """Of a run without other faults: the calls that were under way at a kill, by their document's SHA-256,
    and the attempts that a kill ended, by job.
    """

    under_way: Mapping[str, int]
    cut_short: Mapping[UUID, int]
    attempts: int  #: that a job has


@dataclass(slots=True)
class Evidence:
    """`statuses` is what the API says; `contents` maps the hash a document came with to its hash now;
    `pinned` is what a new bot would find, or what is wrong with it.
    """

    accepted: list[Asked]
    statuses: Mapping[UUID, str]
    asked_by: Mapping[str, set[UUID]]
    jobs: Mapping[UUID, asyncpg.Record]
    backups: Sequence[asyncpg.Record]
    parts: Sequence[asyncpg.Record]
    suspected: Sequence[asyncpg.Record]
    catalogues: Sequence[asyncpg.Record]
    outbox: Sequence[asyncpg.Record]
    chat: Mapping[int, StoredMessage]
    contents: Mapping[str, str]
    pinned: Catalogue | str | None
    manifests: Mapping[UUID, Manifest | str]
    letters: Mapping[str, Sequence[Letter]]
    depths: Mapping[str, int]
    left: Left
    exits: Sequence[Exit]
    surprises: Sequence[str] = ()
    restless: Sequence[str] = ()
    restored: Mapping[UUID, Sequence[str]] = field(default_factory=dict)
    killed: Killed | None = None


@dataclass(frozen=True, slots=True)
class Gathering:
    """Reads the evidence of one seed."""

    servers: Servers
    stack: Stack
    load: Load | Planting
    queues_deleted_at: Sequence[float]
    exits: Sequence[Exit]

    async def __call__(
        self, statuses: Mapping[UUID, str], restless: Sequence[str], sessions: Left
    ) -> Evidence:
        """`sessions` were seen while the services still ran."""
        letters, depths = await self._queues()
        async with connected(self.stack.database_url) as connection:
            jobs = await connection.fetch("SELECT * FROM control_plane.jobs")
            backups = await connection.fetch("SELECT * FROM control_plane.backups")
            parts = await connection.fetch("SELECT * FROM control_plane.backup_parts")
            suspected = await connection.fetch("SELECT * FROM control_plane.suspected_sends")
            catalogues = await connection.fetch("SELECT * FROM control_plane.catalogues")
            outbox = await connection.fetch("SELECT * FROM control_plane.outbox")
            audited = await connection.fetch(_AUDITED)
        chat = {message.message_id: message for message in self.servers.bot_api.messages(self.stack.chat_id)}
        return Evidence(
            accepted=self._accepted(letters[UNROUTED_QUEUE.name]),
            statuses=statuses,
            asked_by=_by_actor(audited),
            jobs={job["id"]: job for job in jobs},
            backups=backups,
            parts=parts,
            suspected=suspected,
            catalogues=catalogues,
            outbox=outbox,
            chat=chat,
            contents={message.sha256: self._hash(message.sha256) for message in chat.values()},
            pinned=self._pinned(chat),
            manifests={backup["id"]: self._manifest(backup, chat) for backup in backups},
            letters=letters,
            depths=depths,
            left=Left(
                processes=processes_of(self.stack),
                files=files_left(self.stack),
                prefixes=prefixes_left(self.stack),
                idle_sessions=sessions.idle_sessions,
                tenant_sessions=sessions.tenant_sessions,
            ),
            exits=self.exits,
            surprises=surprises(self.stack.directory),
            restless=restless,
        )

    def _accepted(self, unrouted: Sequence[Letter]) -> list[Asked]:
        """Without those whose every confirmed message was lost with its queue or is in nobody's."""
        return [
            asked
            for asked in self.load.asked
            if asked.fate is Fate.ACCEPTED
            and (
                asked.way is Way.HTTP
                or self._kept(asked) > sum(letter.app_id == asked.app_id for letter in unrouted)
            )
        ]

    def _kept(self, asked: Asked) -> int:
        last_deleted = max(self.queues_deleted_at, default=-1.0)
        return sum(confirmed > last_deleted for confirmed in asked.confirmed_at)

    async def _queues(self) -> tuple[dict[str, list[Letter]], dict[str, int]]:
        """What lies in the queues that are kept, and how much in the others; all of it stays there."""
        async with amqp.connected(self.stack.amqp_url, name="chaos-check") as connection:
            letters = {name: await _letters(connection, name) for name in _KEPT_QUEUES}
        return letters, await depths_of(self.stack.amqp_url)

    def _hash(self, sha256: str) -> str:
        path = self.servers.bot_api_directory / "blobs" / sha256
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"

    def _pinned(self, chat: Mapping[int, StoredMessage]) -> Catalogue | str | None:
        """The newest pin by date of sending, which is the one that Telegram shows."""
        shown = max(
            (message for message in chat.values() if message.pinned and not message.deleted),
            key=lambda message: message.message_id,
            default=None,
        )
        if shown is None:
            return None
        content = (self.servers.bot_api_directory / "blobs" / shown.sha256).read_bytes()
        try:
            return decoded(content, Signer.of([self.stack.keys.signing_key], purpose=CATALOGUE))
        except NotAuthentic as error:
            return f"is not authentic: {error}"

    def _manifest(self, backup: asyncpg.Record, chat: Mapping[int, StoredMessage]) -> Manifest | str:
        """As it lies in the chat; what is wrong with it where it is not the one that was recorded."""
        message = chat.get(backup["manifest_message_id"])
        if message is None or message.deleted:
            return "is not in the chat"
        content = (self.servers.bot_api_directory / "blobs" / message.sha256).read_bytes()
        if hashlib.sha256(content).hexdigest() != backup["manifest_sha256"]:
            return "is not the one that was recorded"
        try:
            document = json.loads(content)
            Signer.of([self.stack.keys.signing_key], purpose=MANIFEST).verify(document)
            return Manifest.model_validate(document)
        except (ValueError, NotAuthentic) as error:
            return f"is not authentic: {error}"


async def depths_of(url: str) -> dict[str, int]:
    """How many messages wait in each work queue."""
    async with amqp.connected(url, name="chaos-depths") as connection:
        channel = await connection.channel()
        return {
            name: (await channel.get_queue(name)).declaration_result.message_count or 0
            for name in WORK_QUEUES
        }


async def sessions_left(url: str) -> Left:
    """Sessions of ours that hold a transaction open, or that are on the tenants' server."""
    async with connected(url) as connection:
        sessions = await connection.fetch(_SESSIONS)
    idle = [
        f"{row['application_name']} as {row['usename']}, pid {row['pid']}: {row['query'][:80]}"
        for row in sessions
        if str(row["state"]).startswith("idle in transaction") and row["seconds"] > _IDLE_SECONDS
    ]
    tenants = [f"{row['application_name']}, pid {row['pid']}" for row in sessions if _is_tenants(row)]
    return Left(idle_sessions=idle, tenant_sessions=tenants)


def _is_tenants(session: asyncpg.Record) -> bool:
    return str(session["usename"]) == "pgferry_dump"


def prefixes_left(stack: Stack) -> list[UUID]:
    return [UUID(path.name) for path in stack.spool.iterdir() if path.is_dir() and _is_uuid(path.name)]


def files_left(stack: Stack) -> list[str]:
    """Whatever is neither the marker nor a job's folder in the spool, and whatever is in our TMPDIR."""
    spool = [
        path
        for path in stack.spool.iterdir()
        if path.name != MARKER and not (path.is_dir() and _is_uuid(path.name))
    ]
    return [str(path) for path in (*spool, *(stack.directory / "tmp").iterdir())]


def processes_of(stack: Stack) -> list[str]:
    """Every pg_dump of this seed's database."""
    name = stack.database_url.rpartition("/")[2].encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"pg_dump" in command[0] and any(name in argument for argument in command):
            found.append(f"pid {path.parent.name}: pg_dump")
    return found


def _is_uuid(name: str) -> bool:
    try:
        UUID(name)
    except ValueError:
        return False
    return True


def _by_actor(audited: Sequence[asyncpg.Record]) -> dict[str, set[UUID]]:
    found: dict[str, set[UUID]] = {}
    for row in audited:
        found.setdefault(row["actor"].removeprefix("app:"), set()).add(row["job_id"])
    return found


async def _letters(connection: AbstractConnection, name: str) -> list[Letter]:
    """All of them go back when the channel is closed."""
    channel = await connection.channel()
    queue = await channel.get_queue(name)
    letters = []
    while message := await queue.get(fail=False):
        job_id = message.correlation_id or message.headers.get("x-job-id")
        original = message.headers.get("x-message-id")
        letters.append(
            Letter(
                message_id=message.message_id,
                app_id=message.app_id,
                job_id=UUID(str(job_id)) if job_id else None,
                type=message.type,
                original_id=str(original) if original else None,
            )
        )
    await channel.close()
    return letters
