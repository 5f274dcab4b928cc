"""Stops the upload of one job at a step, from outside: by what a transaction of ours holds, by a commit or a
call that is held back. Nothing in the services knows of it.

`kills` has one such job for each kill. It is led from stop to stop: the next one is put up before the one
where it waits is taken away.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.chaos.fault import Fault
from sandbox.chaos.servers import BOT_TOKEN, connected
from sandbox.held_commits import WAITS_FOR_STANDBY, commits_held
from shared.storage.parts import Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack
    from pathlib import Path

    import asyncpg

    from sandbox.chaos.fleet import Fleet
    from sandbox.chaos.planting import Planting
    from sandbox.chaos.servers import Servers
    from sandbox.planted import Planted

_POLL_SECONDS: Final = 0.005
_SEND: Final = "sendDocument"
_ALL_CALLS: Final = 100
#: So many that their removal can be caught.
_LITTER: Final = 1500

_OWNER: Final = "SELECT owner FROM control_plane.jobs WHERE id = $1"
_SESSION: Final = """
    SELECT pid FROM pg_stat_activity
     WHERE wait_event_type = 'Lock' AND query LIKE $2 AND $1 = ANY (pg_blocking_pids(pid))
"""
_COMMITTING: Final = """
    SELECT pid, client_port FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event = $1 AND query LIKE $2
"""
_DOCUMENT: Final = """
    SELECT status, sha256 FROM control_plane.backup_parts
     WHERE job_id = $1 AND dump_fence = $2 AND kind = $3 AND index = $4
"""
#: Of those who live.
_CALLS: Final = """
    SELECT count(*)
      FROM control_plane.backup_parts AS part JOIN control_plane.jobs AS job ON job.id = part.job_id
     WHERE part.status = 'sending' AND job.owner LIKE ANY ($1)
"""

_PLANNED: Final = """
    INSERT INTO control_plane.backup_parts (job_id, dump_fence, kind, index, size_bytes, sha256)
    VALUES ($1, $2, $3, $4, 1, '')
"""
_IN_LINE: Final = """
    INSERT INTO control_plane.lane_entries (bot_id, chat_id, state, job_id, owner)
    VALUES ($1, $2, 'waiting', $3, 'chaos')
"""
_ROW: Final = """
    SELECT FROM control_plane.backup_parts
     WHERE job_id = $1 AND dump_fence = $2 AND kind = $3 AND index = $4 FOR UPDATE
"""
_JOB: Final = "SELECT FROM control_plane.jobs WHERE id = $1 FOR UPDATE"

#: Statements by what stands near their beginning: `pg_stat_activity` shows a kilobyte.
_CLAIMS: Final = "%WITH candidate AS%"
_PLANS: Final = "%AS plan (index, size_bytes, sha256)%"
_TAKES_ITS_PLACE: Final = "%control_plane.lane_entries%"
_IS_SENDING: Final = "%WITH before AS (\n        SELECT * FROM control_plane.backup_parts%"
_HAS_SENT: Final = "%SET status = 'sent'%"
_RECORDS: Final = "%stage = 'stored'%"
_COMMITS: Final = "COMMIT%"


@dataclass(frozen=True, slots=True)
class Document:
    kind: Kind
    index: int


_MANIFEST: Final = Document(Kind.MANIFEST, 0)


@dataclass(frozen=True, slots=True)
class Stopped:
    """Who has the job, and its session, if what that asked for may still be kept from happening."""

    victim: str
    session: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Something of the job that a transaction of ours holds."""

    holder: asyncpg.Connection

    async def take_away(self) -> None:
        await self.holder.execute("ROLLBACK")


@dataclass(slots=True)
class UploadSteps:
    """`held`: all stops end with it."""

    fleet: Fleet
    servers: Servers
    planting: Planting
    planted: Planted
    look: asyncpg.Connection
    held: AsyncExitStack
    part: Document  #: which one the steps of a part are about

    async def reach(self, step: Fault) -> Stopped:
        """Return when the job is there; it stays there until `held` ends."""
        return await self._steps()[step]()

    def _steps(self) -> dict[Fault, Callable[[], Awaitable[Stopped]]]:
        return {
            Fault.UPLOAD_CLAIM: self._claim,
            Fault.UPLOAD_PLAN: lambda: self._plan(Document(Kind.PART, 0)),
            Fault.UPLOAD_LANE: lambda: self._lane(self.part),
            Fault.UPLOAD_SENDING: lambda: self._sending(self.part),
            Fault.UPLOAD_CALL: lambda: self._call(self.part),
            Fault.UPLOAD_STORED: lambda: self._stored(self.part),
            Fault.UPLOAD_ANSWERED: lambda: self._answered(self.part),
            Fault.UPLOAD_MANIFEST_PLAN: lambda: self._plan(_MANIFEST),
            Fault.UPLOAD_MANIFEST_LANE: lambda: self._lane(_MANIFEST),
            Fault.UPLOAD_MANIFEST_SENDING: lambda: self._sending(_MANIFEST),
            Fault.UPLOAD_MANIFEST_CALL: lambda: self._call(_MANIFEST),
            Fault.UPLOAD_MANIFEST_STORED: lambda: self._stored(_MANIFEST),
            Fault.UPLOAD_MANIFEST_ANSWERED: lambda: self._answered(_MANIFEST),
            Fault.UPLOAD_RECORD: self._record,
            Fault.UPLOAD_RECORDED: self._recorded,
            Fault.UPLOAD_REMOVAL: self._removal,
        }

    async def _claim(self) -> Stopped:
        """Nobody else sees yet whose the job is. A start would wait for its commits, too."""
        await self._until(lambda: asyncio.to_thread(self.fleet.some_ready))
        await self.held.enter_async_context(commits_held(self._url))
        await self._hand_over()
        session = await self._one(_COMMITTING, WAITS_FOR_STANDBY, _CLAIMS)
        victim = self.fleet.name_at(session["client_port"])
        if victim is None:
            raise TimeoutError
        return Stopped(victim)

    async def _plan(self, document: Document) -> Stopped:
        stop = await self._put_up(_PLANNED, *self._row(document))
        await self._hand_over()
        return await self._waiting(stop, _PLANS)

    async def _lane(self, document: Document) -> Stopped:
        return (await self._in_line(document))[1]

    async def _sending(self, document: Document) -> Stopped:
        in_line, _ = await self._in_line(document)
        row = await self._put_up(_ROW, *self._row(document))
        await in_line.take_away()
        return await self._waiting(row, _IS_SENDING)

    async def _call(self, document: Document) -> Stopped:
        """All calls are held, after their documents have arrived and before these are in the chat."""
        in_line, _ = await self._in_line(document)
        self.held.push_async_callback(asyncio.to_thread, self.servers.bot_api.release)
        await asyncio.to_thread(self.servers.bot_api.hold_after, _SEND, 0)
        await in_line.take_away()
        await self._until(lambda: self._is_held(document))
        return Stopped(await self._victim())

    async def _stored(self, document: Document) -> Stopped:
        """All documents reach the chat, and no answer leaves."""
        in_line, _ = await self._in_line(document)
        self.held.push_async_callback(asyncio.to_thread, self.servers.bot_api.reset)
        await asyncio.to_thread(self.servers.bot_api.hang_after_storing, _SEND, times=_ALL_CALLS)
        await in_line.take_away()
        await self._until(lambda: self._is_in_the_chat(document))
        return Stopped(await self._victim())

    async def _answered(self, document: Document) -> Stopped:
        await self._call(document)
        row = await self._put_up(_ROW, *self._row(document))
        await asyncio.to_thread(self.servers.bot_api.release)
        return await self._waiting(row, _HAS_SENT)

    async def _record(self) -> Stopped:
        return (await self._recording())[1]

    async def _recorded(self) -> Stopped:
        stop, stopped = await self._recording()
        await self.held.enter_async_context(commits_held(self._url))
        await stop.take_away()
        await self._until(lambda: self._commits(stopped.session))
        return Stopped(stopped.victim)

    async def _removal(self) -> Stopped:
        """The spool holds far more than the dump, so that emptying it takes its time."""
        folder = self.planting.folder(self.planted)
        await asyncio.to_thread(self.planting.litter, self.planted, _LITTER)
        stop, stopped = await self._recording()
        before = _changed_at(folder)
        await stop.take_away()
        while (now := _changed_at(folder)) == before:  # noqa: ASYNC110 - another process empties it
            await asyncio.sleep(0)
        if now is None:
            raise TimeoutError
        return Stopped(stopped.victim)

    async def _recording(self) -> tuple[Stop, Stopped]:
        in_line, _ = await self._in_line(_MANIFEST)
        stop = await self._put_up(_JOB, self.planted.claim.job_id)
        await in_line.take_away()
        return stop, await self._waiting(stop, _RECORDS)

    async def _in_line(self, document: Document) -> tuple[Stop, Stopped]:
        """The job is about to stand in the chat's lane with this document."""
        stop = await self._put_up(_IN_LINE, *self._place())
        await self._hand_over()
        stopped = await self._waiting(stop, _TAKES_ITS_PLACE)
        before = self._before(document)
        if before is None:
            return stop, stopped
        row = await self._put_up(_ROW, *self._row(before))
        await stop.take_away()
        await self._waiting(row, _IS_SENDING)
        stop = await self._put_up(_IN_LINE, *self._place())
        await row.take_away()
        return stop, await self._waiting(stop, _TAKES_ITS_PLACE)

    def _before(self, document: Document) -> Document | None:
        """The document that leaves before this one."""
        index = len(self.planted.dump.parts) if document.kind is Kind.MANIFEST else document.index
        return Document(Kind.PART, index - 1) if index else None

    async def _put_up(self, statement: str, *arguments: object) -> Stop:
        holder = await self.held.enter_async_context(connected(self._url))
        await holder.execute("BEGIN")
        await holder.execute(statement, *arguments)
        return Stop(holder)

    async def _hand_over(self) -> None:
        await self.planting.hand_over(self.planted)

    async def _waiting(self, stop: Stop, statement: str) -> Stopped:
        """Return when the job waits at the stop with this statement."""
        session = await self._one(_SESSION, stop.holder.get_server_pid(), statement)
        return Stopped(await self._victim(), session["pid"])

    async def _victim(self) -> str:
        owner = await self.look.fetchval(_OWNER, self.planted.claim.job_id)
        name = self.fleet.name_of(owner or "")
        if name is None:  # it was killed a moment ago, by another's kill
            raise TimeoutError
        return name

    async def _is_held(self, document: Document) -> bool:
        row = await self.look.fetchrow(_DOCUMENT, *self._row(document))
        if row is None or row["status"] != "sending":
            return False
        calls: int = await self.look.fetchval(_CALLS, [f"%:{pid}" for pid in self.fleet.pids])
        return await asyncio.to_thread(self.servers.bot_api.held, _SEND) >= calls

    async def _is_in_the_chat(self, document: Document) -> bool:
        row = await self.look.fetchrow(_DOCUMENT, *self._row(document))
        messages = await asyncio.to_thread(self.servers.bot_api.messages, self.fleet.stack.chat_id)
        return row is not None and any(message.sha256 == row["sha256"] for message in messages)

    async def _commits(self, session: int | None) -> bool:
        rows = await self.look.fetch(_COMMITTING, WAITS_FOR_STANDBY, _COMMITS)
        return any(row["pid"] == session for row in rows)

    async def _one(self, query: str, *arguments: object) -> asyncpg.Record:
        while not (rows := await self.look.fetch(query, *arguments)):  # noqa: ASYNC110 - another's doing
            await asyncio.sleep(_POLL_SECONDS)
        return rows[0]

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(_POLL_SECONDS)

    def _row(self, document: Document) -> tuple[object, ...]:
        claim = self.planted.claim
        return claim.job_id, claim.fence, document.kind.value, document.index

    def _place(self) -> tuple[object, ...]:
        return int(BOT_TOKEN.partition(":")[0]), self.fleet.stack.chat_id, self.planted.claim.job_id

    @property
    def _url(self) -> str:
        return self.fleet.stack.database_url


def _changed_at(folder: Path) -> int | None:
    """When a file in it was made or removed; None when it is gone."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return None
