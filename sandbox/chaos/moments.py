"""Kills at named moments, each reached from outside: by a lock or a call that is held, by a black hole."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox.chaos.fault import EVERYBODY, GATEWAYS, Fault
from sandbox.chaos.plan import AWKWARD_PROJECT
from sandbox.chaos.servers import Server, connected
from sandbox.tcp_proxy import Way, pass_again_all, swallow_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from sandbox.chaos.fleet import Fleet
    from sandbox.chaos.load import Load
    from sandbox.chaos.plan import PlannedFault
    from sandbox.chaos.servers import Servers
    from sandbox.chaos.timeline import Timeline

MOMENTS: Final = frozenset(fault for fault in Fault if fault.value.startswith("kill_"))

_REACHED_SECONDS: Final = 12.0
_POLL_SECONDS: Final = 0.05

_LOCK_TABLE: Final = f'LOCK TABLE "tenant_{AWKWARD_PROJECT}".orders IN ACCESS EXCLUSIVE MODE'
_INDEX_OF_LONG_VALUES: Final = """
    SELECT pg_index.indexrelid::regclass::text
    FROM pg_class JOIN pg_index ON pg_index.indrelid = pg_class.reltoastrelid
    WHERE pg_class.relname = 'awkward_texts'
"""
#: Sessions that wait for a lock, of these names and with this statement.
_WAITING: Final = """
    SELECT application_name, query FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
       AND application_name LIKE $1 AND query LIKE $2
"""
#: What ends a dump's last transaction; intake's and the relay's statements begin otherwise.
_ANNOUNCES: Final = "\n    INSERT INTO control_plane.outbox%"
_HOLDERS: Final = """
    SELECT owner FROM control_plane.jobs
     WHERE stage = $1 AND owner IS NOT NULL AND lease_until > now() ORDER BY claimed_at
"""
_OWNER: Final = "SELECT owner FROM control_plane.jobs WHERE id = $1::uuid AND owner IS NOT NULL"
_UNSENT: Final = "SELECT count(*) FROM control_plane.outbox WHERE sent_at IS NULL AND attempts >= $1"


@dataclass(slots=True)
class Moments:
    """One at a time: what one holds would keep another from its moment."""

    fleet: Fleet
    servers: Servers
    timeline: Timeline
    load: Load
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def kill_at(self, planned: PlannedFault) -> None:
        """Kill whoever comes to the moment, and start it again; says so if nobody came in time."""
        async with self._one:
            victim = None
            try:
                async with asyncio.timeout(_REACHED_SECONDS):
                    victim = await self._reached()[planned.fault](planned)
            except TimeoutError:
                self.timeline.say(f"the moment of {planned.fault.value} was not reached")
        if victim is not None:
            await asyncio.sleep(planned.seconds)
            self.fleet.start(victim)

    def _reached(self) -> dict[Fault, Callable[[PlannedFault], Awaitable[str | None]]]:
        return {
            Fault.KILL_BEFORE_DUMP: self._before_dump,
            Fault.KILL_IN_DUMP: self._in_dump,
            Fault.KILL_AFTER_DUMP: self._after_dump,
            Fault.KILL_BEFORE_PUBLISH: self._before_publish,
            Fault.KILL_BEFORE_MARK: self._before_mark,
            Fault.KILL_IN_SEND: self._in_send,
            Fault.KILL_BEFORE_RECORD: self._before_record,
            Fault.KILL_BEFORE_STORED: self._before_stored,
        }

    async def _before_dump(self, planned: PlannedFault) -> str | None:
        async with self._holding(_LOCK_TABLE) as look:
            await self._ask(planned)
            name = await self._waiting(look, "pgferry:%", "LOCK TABLE%")
            return await self._kill_owner(planned, look, name)

    async def _in_dump(self, planned: PlannedFault) -> str | None:
        """pg_dump waits for the index by which a long value's pieces are found; nobody else needs it."""
        async with self._look() as look:
            index = await look.fetchval(_INDEX_OF_LONG_VALUES)
        async with self._holding(f"REINDEX INDEX {index}") as look:
            await self._ask(planned)
            name = await self._waiting(look, "pgferry:%", "COPY%")
            return await self._kill_owner(planned, look, name)

    async def _after_dump(self, planned: PlannedFault) -> str | None:
        """The final transaction waits for the outbox; so does every request meanwhile."""
        async with self._look() as look:
            await self._ask(planned)
            async with self._holding("LOCK TABLE control_plane.outbox IN SHARE MODE"):
                await self._waiting(look, "pgferry-exporter", _ANNOUNCES)
                return await self._kill_holder(planned, look, "dumping")

    async def _before_publish(self, planned: PlannedFault) -> str | None:
        """Nobody's publishes leave; the gateway dies right after its answer."""
        async with self._swallowing(frozenset(Way)), self._look() as look:
            asked = await self._ask(planned, gateway=planned.victim)
            await self._unsent(look, 0)
            return self._kill(planned, planned.victim or "") if asked else None

    async def _before_mark(self, planned: PlannedFault) -> str | None:
        """Publishes arrive and their confirmations do not; whoever published dies before it knows."""
        async with self._swallowing(frozenset({Way.TO_CLIENT})), self._look() as look:
            await self._ask(planned)
            await self._unsent(look, 1)
            return self._kill(planned, planned.victim or "")

    async def _in_send(self, planned: PlannedFault) -> str | None:
        """A document has arrived and is not stored; the call is still open."""
        api = self.servers.bot_api
        async with self._look() as look:
            try:
                await asyncio.to_thread(api.hold_after, "sendDocument", int(planned.share * 3))
                await self._ask(planned)
                await self._until(lambda: asyncio.to_thread(api.held, "sendDocument"))
                return await self._kill_holder(planned, look, "uploading")
            finally:
                await asyncio.to_thread(api.release)

    async def _before_record(self, planned: PlannedFault) -> str | None:
        """The answer was read, and the row that says so waits."""
        api = self.servers.bot_api
        async with AsyncExitStack() as stack:
            look = await stack.enter_async_context(self._look())
            await asyncio.to_thread(api.hold_after, "sendDocument", int(planned.share * 3))
            try:
                await self._ask(planned)
                await self._until(lambda: asyncio.to_thread(api.held, "sendDocument"))
                await stack.enter_async_context(
                    self._holding("LOCK TABLE control_plane.backup_parts IN SHARE MODE")
                )
            finally:
                await asyncio.to_thread(api.release)
            await self._waiting(look, "pgferry-uploader", "%status = 'sent'%")
            return await self._kill_holder(planned, look, "uploading")

    async def _before_stored(self, planned: PlannedFault) -> str | None:
        """The manifest is in the chat, and the backup's row waits."""
        async with self._holding("LOCK TABLE control_plane.backups IN SHARE MODE") as look:
            await self._ask(planned)
            await self._waiting(look, "pgferry-uploader", "%control_plane.backups%")
            return await self._kill_holder(planned, look, "uploading")

    async def _ask(self, planned: PlannedFault, gateway: str | None = None) -> bool:
        """Something must come to the moment."""
        options = {"project_id": AWKWARD_PROJECT, "filename": f"moment-{planned.number}"}
        alive = [name for name in GATEWAYS if self.fleet.runs(name)]
        if gateway not in alive:
            gateway = alive[0] if alive else GATEWAYS[0]
        asked = await self.load.post(f"m{planned.number}", gateway, options)
        return asked.job_id is not None

    async def _kill_owner(self, planned: PlannedFault, look: asyncpg.Connection, session: str) -> str | None:
        """Of the job whose session this is: `pgferry:<job>:<fence>`."""
        owner = await look.fetchval(_OWNER, session.split(":")[1])
        name = self.fleet.name_of(owner) if owner else None
        return self._kill(planned, name) if name else None

    async def _kill_holder(self, planned: PlannedFault, look: asyncpg.Connection, stage: str) -> str | None:
        for holder in await look.fetch(_HOLDERS, stage):
            name = self.fleet.name_of(holder["owner"])
            if name is not None:
                return self._kill(planned, name)
        return None

    def _kill(self, planned: PlannedFault, name: str) -> str | None:
        if not self.fleet.kill(name):
            return None
        self.timeline.happened(planned.fault, name)
        return name

    async def _waiting(self, look: asyncpg.Connection, session: str, statement: str) -> str:
        found: list[str] = []

        async def somebody() -> bool:
            found.extend(row["application_name"] for row in await look.fetch(_WAITING, session, statement))
            return bool(found)

        await self._until(somebody)
        return found[0]

    async def _unsent(self, look: asyncpg.Connection, attempts: int) -> None:
        async def some() -> bool:
            count: int = await look.fetchval(_UNSENT, attempts)
            return count > 0

        await self._until(some)

    async def _until(self, condition: Callable[[], Awaitable[object]]) -> None:
        while not await condition():  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(_POLL_SECONDS)

    @asynccontextmanager
    async def _holding(self, statement: str) -> AsyncIterator[asyncpg.Connection]:
        """A transaction of ours holds this lock for the block; it yields another connection to look by."""
        async with self._look() as holder, self._look() as look:
            await holder.execute("BEGIN")
            await holder.execute(statement)
            yield look

    @asynccontextmanager
    async def _look(self) -> AsyncIterator[asyncpg.Connection]:
        async with connected(self.fleet.stack.database_url) as connection:
            yield connection

    @asynccontextmanager
    async def _swallowing(self, ways: frozenset[Way]) -> AsyncIterator[None]:
        proxies = [self.servers.proxies[name, Server.AMQP] for name in EVERYBODY]
        await asyncio.to_thread(swallow_all, proxies, ways)
        try:
            yield
        finally:
            await asyncio.to_thread(pass_again_all, proxies)
