"""The services' processes of one seed: started, killed, frozen, started again; who ends unasked is noticed.

Havoc hits them by name; a seed starts them all, heals them and ends them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from sandbox.chaos.fault import EVERYBODY, GATEWAYS
from sandbox.chaos.servers import BOT_TOKEN, Server, Servers
from sandbox.ports import free_port, has_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox.chaos.timeline import Timeline
    from sandbox.stack import Service, Stack

#: A worker that dies is missed after three seconds, and retries come at once.
LEASE_SECONDS: Final = 3.0
DRAIN_SECONDS: Final = 4.0
#: A broker that says nothing is given up after three of these.
_SILENT_AFTER: Final = "?heartbeat=3"
_SECOND_SIGNAL_SECONDS: Final = 0.3
_LAST_WORDS: Final = 1500
_ENDED_SECONDS: Final = DRAIN_SECONDS + 25.0
_QUICK: Final[dict[str, object]] = {
    "PGFERRY_LEASE_SECONDS": LEASE_SECONDS,
    "PGFERRY_HEARTBEAT_SECONDS": 0.75,
    "PGFERRY_POLL_SECONDS": 0.5,
    "PGFERRY_RETRY_SCALE": 0.02,
    "PGFERRY_DRAIN_SECONDS": DRAIN_SECONDS,
}
#: Where nothing but kills happens: few enough for some job to use them up.
UPLOAD_ATTEMPTS: Final = 2
_EVERYBODYS: Final[dict[str, object]] = {"PGFERRY_ATTEMPTS": 4, "PGFERRY_RECONCILE_SECONDS": 2}
#: Who lives takes over from the dead; a duty's round in each process costs more than all uploads.
_NEVER: Final = 3600
_OF_SERVICE: Final[dict[str, dict[str, object]]] = {
    "gateway": {**_EVERYBODYS, "PGFERRY_RATE_LIMIT": 100_000},
    "exporter": {
        **_EVERYBODYS,
        **_QUICK,
        "PGFERRY_EXPORTER_SLOTS": 3,
        "PGFERRY_DUMPS_PER_SERVER": 4,
        "PGFERRY_LOCK_SECONDS": 6,
        "PGFERRY_PART_SIZE_BYTES": 256 * 1024,
        "PGFERRY_SPOOL_FLOOR_BYTES": 1024 * 1024,
        "PGFERRY_TMP_FLOOR_BYTES": 1024 * 1024,
    },
    "uploader": {
        **_EVERYBODYS,
        **_QUICK,
        "PGFERRY_UPLOADER_SLOTS": 2,
        "PGFERRY_LANE_MESSAGES": 20,
        "PGFERRY_LANE_WINDOW_SECONDS": 0.6,
        "PGFERRY_BOT_WINDOW_SECONDS": 0.01,
        "PGFERRY_CATALOGUE_SECONDS": 3,
    },
}


@dataclass(slots=True)
class Exit:
    """A process that ended although nobody had asked, or not as it was asked."""

    name: str
    code: int
    last_words: str


@dataclass(slots=True)
class Fleet:
    stack: Stack
    servers: Servers
    timeline: Timeline
    members: Sequence[str] = EVERYBODY
    direct: bool = False  #: no proxies: whoever waits on a server is known by its port
    gateway_ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in GATEWAYS})
    exits: list[Exit] = field(default_factory=list)
    _running: dict[str, Service] = field(default_factory=dict)
    _frozen: set[str] = field(default_factory=set)

    @property
    def tmp(self) -> Path:
        return self.stack.directory / "tmp"

    def url_of_gateway(self, name: str) -> str:
        return f"http://127.0.0.1:{self.gateway_ports[name]}"

    def runs(self, name: str) -> bool:
        return name in self._running

    def service(self, name: str) -> Service | None:
        return self._running.get(name)

    @property
    def names(self) -> list[str]:
        """Of those who run."""
        return list(self._running)

    @property
    def pids(self) -> list[int]:
        return [service.child.pid for service in self._running.values()]

    def some_ready(self) -> bool:
        return any(service.get("/readyz")[0] == HTTPStatus.OK for service in list(self._running.values()))

    def name_at(self, port: int) -> str | None:
        """Whose connection it is that comes from this port."""
        return next((name for name, found in self._running.items() if has_port(found.child.pid, port)), None)

    def name_of(self, owner: str) -> str | None:
        """Whose process it is, by what stands in `jobs.owner`."""
        pid = owner.rpartition(":")[2]
        return next((name for name, found in self._running.items() if str(found.child.pid) == pid), None)

    async def start_all(self, names: Sequence[str] | None = None) -> None:
        """Returns when all members, or these, are ready."""
        self.tmp.mkdir()
        for name in names or self.members:
            self.start(name)
        await asyncio.gather(*(asyncio.to_thread(service.wait_ready) for service in self._running.values()))

    def start(self, name: str, **settings: object) -> None:
        """Nothing happens if it runs."""
        if name in self._running:
            return
        kind = name.partition("-")[0]
        self._running[name] = self.stack.start(
            kind, **(_OF_SERVICE[kind] | self._ways(name, kind) | settings)
        )
        self.timeline.say(f"{name} starts, pid {self._running[name].child.pid}")

    def kill(self, name: str) -> bool:
        """-9; False if it does not run."""
        service = self._running.pop(name, None)
        if service is None:
            return False
        self._frozen.discard(name)
        service.kill()
        self.timeline.say(f"{name} killed, pid {service.child.pid}")
        return True

    def freeze(self, name: str) -> bool:
        if name not in self._running or name in self._frozen:
            return False
        self._frozen.add(name)
        self._running[name].pause()
        return True

    def thaw(self, name: str) -> None:
        if name in self._frozen:
            self._frozen.discard(name)
            self._running[name].resume()
            self.timeline.say(f"{name} goes on")

    async def terminate(self, name: str, *, twice: bool = False) -> bool:
        """SIGTERM; whatever it then does but end with 0 is kept in `exits`. Two: it is not to wait."""
        service = self._running.pop(name, None)
        if service is None:
            return False
        self._resume(name, service)
        os.kill(service.child.pid, signal.SIGTERM)
        if twice:
            await asyncio.sleep(_SECOND_SIGNAL_SECONDS)
            service.child.process.send_signal(signal.SIGTERM)  # not to somebody else, if it has ended
        try:
            code = await asyncio.to_thread(service.child.process.wait, _ENDED_SECONDS)
        except Exception:  # noqa: BLE001 - subprocess.TimeoutExpired, or whatever else kept it alive
            service.child.kill()
            code = -signal.SIGKILL
        self.timeline.say(f"{name} ended with {code} after SIGTERM, pid {service.child.pid}")
        if code and not (code == -signal.SIGTERM and _hardly_begun(service)):
            self.exits.append(Exit(name, code, service.log()[-_LAST_WORDS:]))
        return True

    def look(self) -> None:
        """Notice who has ended by itself, and start it again as a supervisor does."""
        for name, service in list(self._running.items()):
            code = service.child.process.poll()
            if code is not None:
                del self._running[name]
                self.timeline.say(f"{name} ended by itself with {code}")
                self.exits.append(Exit(name, code, service.log()[-_LAST_WORDS:]))
                self.start(name)

    def heal(self) -> None:
        for name in self.members:
            self.thaw(name)
            self.start(name)

    async def terminate_all(self) -> None:
        await asyncio.gather(*(self.terminate(name) for name in list(self._running)))

    def _resume(self, name: str, service: Service) -> None:
        if name in self._frozen:
            self._frozen.discard(name)
            service.resume()

    def _ways(self, name: str, kind: str) -> dict[str, object]:
        """Where the servers are for this process: behind its own proxies."""
        if self.direct:
            return {
                "TMPDIR": self.tmp,
                "PGFERRY_ATTEMPTS": UPLOAD_ATTEMPTS,
                "PGFERRY_RECONCILE_SECONDS": _NEVER,
                "PGFERRY_CATALOGUE_SECONDS": 0,
            }
        own = {server: self.servers.proxies[name, server].port for server in Server}
        ways: dict[str, object] = {
            "DATABASE_URL": self._behind(self.stack.url_as(kind), own[Server.POSTGRES]),
            "AMQP_URL": self._behind(self.stack.amqp_url, own[Server.AMQP]) + _SILENT_AFTER,
            "TMPDIR": self.tmp,
        }
        if kind == "gateway":
            ways["PGFERRY_GATEWAY_PORT"] = self.gateway_ports[name]
        elif kind == "exporter":
            ways["TENANT_DATABASE_URL"] = self._behind(self.stack.url_as("dump"), own[Server.POSTGRES])
        else:
            ways["TELEGRAM_API_URL"] = f"http://127.0.0.1:{own[Server.TELEGRAM]}"
            ways["TELEGRAM_BOT_TOKEN"] = BOT_TOKEN
        return ways

    def _behind(self, url: str, port: int) -> str:
        ports = (self.servers.postgres.port, self.servers.rabbitmq.port)
        for server_port in ports:
            url = url.replace(f"@127.0.0.1:{server_port}/", f"@127.0.0.1:{port}/")
        return url


def _hardly_begun(service: Service) -> bool:
    """Python was still loading when the signal came: nobody was there to heed it, and nothing to drain."""
    return len(service.log().splitlines()) <= 1
