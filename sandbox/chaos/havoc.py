"""Carries out the faults of a plan, each at its time, whatever the others do meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import aio_pika
import asyncpg

from sandbox.chaos.fault import EVERYBODY, Fault
from sandbox.chaos.moments import MOMENTS, Moments
from sandbox.chaos.servers import Server
from sandbox.tcp_proxy import TcpProxy, Way, pass_again_all
from shared.contracts.topology import EXPORTER, UPLOADER
from shared.messaging.connection import BROKER_ERRORS, connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox.chaos.fleet import Fleet
    from sandbox.chaos.plan import PlannedFault
    from sandbox.chaos.servers import Servers
    from sandbox.chaos.timeline import Timeline

_ALARM_TRIES: Final = 5
_WATERMARK: Final = "400MiB"  #: of the private node's configuration
_FULL_DISK_BYTES: Final = 1 << 60
_ROUND_THE_CORNER_SECONDS: Final = 0.2
_PROXIED: Final = {
    "postgres": Server.POSTGRES,
    "amqp": Server.AMQP,
    "telegram": Server.TELEGRAM,
}
_SEND: Final = "sendDocument"
_STATUSES: Final = (500, 502, 504)
_ONE_WAY_SHARE: Final = 0.5
_TWICE_SHARE: Final = 0.3
_EVERYBODY_SHARE: Final = 0.3
_DELAY_SECONDS: Final = 0.25
_MIDWAY_BYTES: Final = {Server.POSTGRES: 60_000, Server.AMQP: 2_000, Server.TELEGRAM: 500_000}


@dataclass(slots=True)
class Havoc:
    fleet: Fleet
    servers: Servers
    timeline: Timeline
    amqp_url: str
    moments: Moments
    queues_deleted_at: list[float] = field(default_factory=list)
    killed: None = None  #: there are other faults

    async def heal(self) -> None:
        await asyncio.to_thread(self.servers.pass_again)
        self.fleet.heal()

    async def run(self, faults: tuple[PlannedFault, ...]) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            await asyncio.gather(*(self._at(fault) for fault in faults))
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            self.fleet.look()
            await asyncio.sleep(_ROUND_THE_CORNER_SECONDS)

    async def _at(self, planned: PlannedFault) -> None:
        await asyncio.sleep(max(0.0, planned.at - self.timeline.now))
        try:
            await self._carry_out(planned)
        except (*BROKER_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.timeline.say(f"fault {planned.fault.value} met another: {type(error).__name__}: {error}")

    async def _carry_out(self, planned: PlannedFault) -> None:
        if planned.fault in MOMENTS:
            await self.moments.kill_at(planned)
            return
        prefix, _, what = planned.fault.value.partition("_")
        if what in _BY_PROXY and prefix in _PROXIED:
            await self._by_proxy(planned, _PROXIED[prefix], _BY_PROXY[what])
            return
        await self._others()[planned.fault](planned)

    def _others(self) -> dict[Fault, Callable[[PlannedFault], Awaitable[None]]]:
        return {
            Fault.KILL: self._kill,
            Fault.FREEZE: self._freeze,
            Fault.TERMINATE: self._terminate,
            Fault.SPOOL_FULL: self._fill_spool,
            Fault.BROKER_KILL: self._kill_broker,
            Fault.BROKER_FREEZE: self._freeze_broker,
            Fault.BROKER_CLOSE: self._close_connections,
            Fault.BROKER_ALARM: self._raise_alarm,
            Fault.QUEUES_DELETED: self._delete_queues,
            Fault.POSTGRES_RESTART: self._restart_postgres,
            Fault.TELEGRAM_FLOOD: self._flood,
            Fault.TELEGRAM_ERROR: self._refuse,
            Fault.TELEGRAM_STORED_ERROR: self._store_and_refuse,
            Fault.TELEGRAM_MUSIC: self._take_for_music,
            Fault.TELEGRAM_HANG: self._hang,
            Fault.TELEGRAM_DROP: self._drop,
        }

    async def _kill(self, planned: PlannedFault) -> None:
        name = planned.victim or ""
        if self.fleet.kill(name):
            self.timeline.happened(planned.fault, name)
            await asyncio.sleep(planned.seconds)
            self.fleet.start(name)

    async def _freeze(self, planned: PlannedFault) -> None:
        name = planned.victim or ""
        if self.fleet.freeze(name):
            self.timeline.happened(planned.fault, f"{name} for {planned.seconds:.1f} s")
            await asyncio.sleep(planned.seconds)
            self.fleet.thaw(name)

    async def _terminate(self, planned: PlannedFault) -> None:
        name = planned.victim or ""
        if self.fleet.runs(name):
            twice = planned.share < _TWICE_SHARE
            self.timeline.happened(planned.fault, f"{name}{' twice' if twice else ''}")
            await self.fleet.terminate(name, twice=twice)
            await asyncio.sleep(planned.seconds)
            self.fleet.start(name)

    async def _fill_spool(self, planned: PlannedFault) -> None:
        """An exporter whose floor is higher than any disk, for a while."""
        name = planned.victim or ""
        if not self.fleet.kill(name):
            return
        self.fleet.start(name, PGFERRY_SPOOL_FLOOR_BYTES=_FULL_DISK_BYTES)
        self.timeline.happened(planned.fault, f"{name} for {planned.seconds:.1f} s and its start")
        service = self.fleet.service(name)
        if service is not None:
            await asyncio.sleep(planned.seconds + 2.0)
        if self.fleet.service(name) is service and self.fleet.kill(name):
            self.fleet.start(name)

    async def _kill_broker(self, planned: PlannedFault) -> None:
        self.timeline.happened(planned.fault, f"down for {planned.seconds:.1f} s and its start")
        self.servers.rabbitmq.kill()
        await asyncio.sleep(planned.seconds)
        self.servers.rabbitmq.launch()
        await asyncio.to_thread(self.servers.rabbitmq.wait_ready)
        self.timeline.say("RabbitMQ is back")

    async def _freeze_broker(self, planned: PlannedFault) -> None:
        pid = self.servers.rabbitmq.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)
        self.timeline.happened(planned.fault, f"for {planned.seconds:.1f} s")
        await asyncio.sleep(planned.seconds)
        if self.servers.rabbitmq.pid == pid:
            os.kill(pid, signal.SIGCONT)
            self.timeline.say("RabbitMQ goes on")

    async def _close_connections(self, planned: PlannedFault) -> None:
        if await self._ctl("close_all_connections", "chaos"):
            self.timeline.happened(planned.fault, "all connections")

    async def _raise_alarm(self, planned: PlannedFault) -> None:
        if not await self._ctl("set_vm_memory_high_watermark", "absolute", "1MB"):
            return
        self.timeline.happened(planned.fault, f"for {planned.seconds:.1f} s")
        await asyncio.sleep(planned.seconds)
        for _ in range(_ALARM_TRIES):  # it may be frozen, or away
            if await self._ctl("set_vm_memory_high_watermark", "absolute", _WATERMARK):
                break
        self.timeline.say("the memory alarm is over")

    async def _ctl(self, *arguments: str) -> bool:
        try:
            await asyncio.to_thread(self.servers.rabbitmq.ctl, *arguments)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            self.timeline.say(f"rabbitmqctl failed: {error}")
            return False
        return True

    async def _delete_queues(self, planned: PlannedFault) -> None:
        async with connected(self.amqp_url, name="chaos-operator") as connection:
            for queue in (EXPORTER, UPLOADER):
                channel = await connection.channel()
                try:
                    await channel.queue_delete(queue.name)
                except aio_pika.exceptions.ChannelNotFoundEntity:
                    continue
                self.queues_deleted_at.append(self.timeline.now)
        self.timeline.happened(planned.fault, "both work queues")

    async def _restart_postgres(self, planned: PlannedFault) -> None:
        postgres = self.servers.postgres
        self.timeline.happened(planned.fault, f"down for {planned.seconds:.1f} s and its recovery")
        await asyncio.to_thread(postgres.stop, "immediate")
        await asyncio.sleep(planned.seconds)
        postgres.launch()
        await asyncio.to_thread(postgres.wait_ready)
        self.timeline.say("PostgreSQL is back")

    async def _flood(self, planned: PlannedFault) -> None:
        times = _times(planned)
        await asyncio.to_thread(self.servers.bot_api.flood, _SEND, times=times, retry_after=1 + times % 2)
        self.timeline.happened(planned.fault, f"the next {times} answers")

    async def _refuse(self, planned: PlannedFault) -> None:
        times, status = _times(planned), _STATUSES[planned.number % len(_STATUSES)]
        await asyncio.to_thread(self.servers.bot_api.refuse, _SEND, times=times, status=status)
        self.timeline.happened(planned.fault, f"the next {times} answers are {status}")

    async def _store_and_refuse(self, planned: PlannedFault) -> None:
        times, status = _times(planned), _STATUSES[planned.number % len(_STATUSES)]
        refuse = partial(self.servers.bot_api.refuse, _SEND, times=times, status=status, stored=True)
        await asyncio.to_thread(refuse)
        self.timeline.happened(planned.fault, f"the next {times} are stored and answered with {status}")

    async def _take_for_music(self, planned: PlannedFault) -> None:
        await asyncio.to_thread(self.servers.bot_api.answer_without_document, times=1)
        self.timeline.happened(planned.fault, "the next document")

    async def _hang(self, planned: PlannedFault) -> None:
        """A hang ends when the fault ends; what was stored is stored."""
        times = _times(planned)
        await asyncio.to_thread(self.servers.bot_api.hang_after_storing, _SEND, times=times)
        self.timeline.happened(planned.fault, f"the next {times} answers, for {planned.seconds:.1f} s")
        await asyncio.sleep(planned.seconds)
        await asyncio.to_thread(self.servers.bot_api.release)

    async def _drop(self, planned: PlannedFault) -> None:
        times = _times(planned)
        await asyncio.to_thread(self.servers.bot_api.drop_after_storing, _SEND, times=times)
        self.timeline.happened(planned.fault, f"the next {times} answers")

    async def _by_proxy(
        self,
        planned: PlannedFault,
        server: Server,
        turn: Callable[[TcpProxy, PlannedFault, Server], str],
    ) -> None:
        """Between one process and the server, or at times between all and the server."""
        everybody = planned.seconds > 0 and planned.share < _EVERYBODY_SHARE
        victims = EVERYBODY if everybody else (planned.victim or "",)
        proxies = [self.servers.proxies[name, server] for name in victims]
        said = await asyncio.to_thread(lambda: {turn(proxy, planned, server) for proxy in proxies})
        self.timeline.happened(
            planned.fault, f"{'everybody' if everybody else planned.victim}: {', '.join(sorted(said))}"
        )
        if planned.seconds:
            await asyncio.sleep(planned.seconds)
            await asyncio.to_thread(pass_again_all, proxies)
            self.timeline.say(f"{planned.fault.value} of {planned.victim} is over")


def _times(planned: PlannedFault) -> int:
    return 1 + int(planned.share * 4)


def _cut(proxy: TcpProxy, planned: PlannedFault, _server: Server) -> str:
    every = 1 + int(planned.share * 3)
    return f"{proxy.cut(every=every)} connections"


def _cut_midway(proxy: TcpProxy, planned: PlannedFault, server: Server) -> str:
    count = 1 + int(planned.share * _MIDWAY_BYTES[server])
    proxy.cut_after(count)
    return f"at byte {count}"


def _delay(proxy: TcpProxy, planned: PlannedFault, _server: Server) -> str:
    proxy.delay(_DELAY_SECONDS)
    return f"{planned.seconds:.1f} s"


def _hole(proxy: TcpProxy, planned: PlannedFault, _server: Server) -> str:
    one_way = planned.share * 10 % 1
    ways = frozenset(Way)
    if one_way < _ONE_WAY_SHARE:
        ways = frozenset({Way.TO_SERVER if one_way < _ONE_WAY_SHARE / 2 else Way.TO_CLIENT})
    proxy.swallow(ways)
    return f"{planned.seconds:.1f} s, {'+'.join(sorted(ways))}"


_BY_PROXY: Final[dict[str, Callable[[TcpProxy, PlannedFault, Server], str]]] = {
    "cut": _cut,
    "cut_midway": _cut_midway,
    "delay": _delay,
    "hole": _hole,
}
