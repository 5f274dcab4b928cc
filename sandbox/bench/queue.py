"""`./run bench queue`: what is measured, in which order.

Chain and rival are alternated in one run on the same tenants: a busy machine then slows both.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.bench.carrying import Carrying
from sandbox.bench.chain import BENCH_VHOST, make_control_plane, open_servers, running_chain
from sandbox.bench.machine import dump_versions, machine_facts
from sandbox.bench.queue_figures import QueueFigures
from sandbox.bench.xargs import XargsPgDump
from services.exporter.pg_dump import client_for, find_clients
from shared.runtime import logs
from shared.storage.database import open_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox.bench.chain import Servers
    from sandbox.bench.figures import Rounds
    from sandbox.bench.queue_figures import Round
    from sandbox.narration import Narration
    from services.exporter.pg_dump import Client

_CARRYING = "carrying"


@dataclass(frozen=True, slots=True)
class QueueBench:
    """One run of the bench; the fields are its options."""

    tenants: int
    tables: int
    rounds: int
    messages: int
    narration: Narration

    async def __call__(self) -> QueueFigures:
        async with open_servers() as servers:
            client = client_for(
                servers.owner.get_server_version().major, find_clients("/usr/lib/postgresql/*/bin")
            )
            machine = await machine_facts(servers.owner, dump_versions(client))
            slugs = [f"tenant-{number}" for number in range(1, self.tenants + 1)]
            with self.narration.step(f"{self.tenants} tenants of {self.tables} tables"):
                await servers.add_tenants(slugs, tables=self.tables)
            chain, rival = await self._exports(servers, client, slugs)
            return QueueFigures(
                machine=machine,
                processors=os.cpu_count() or 1,
                tenants=self.tenants,
                tables=self.tables,
                chain=chain,
                rival=rival,
                messages=self.messages,
                carried=await self._carried(servers),
            )

    async def _exports(
        self, servers: Servers, client: Client, slugs: list[str]
    ) -> tuple[list[Round], list[Round]]:
        """A first round is discarded: it opens connections and fills caches."""
        rival = XargsPgDump(servers, client, slugs)
        async with running_chain(servers, slugs) as chain:
            with self.narration.step("one discarded round"):
                await rival()
                await chain()
            with self.narration.step(f"{self.tenants} exports and as many dumps, {self.rounds} rounds"):
                rounds = [
                    (await chain(), await rival()) if turn % 2 else (await rival(), await chain())[::-1]
                    for turn in range(self.rounds)
                ]
        return [of_chain for of_chain, _ in rounds], [of_rival for _, of_rival in rounds]

    async def _carried(self, servers: Servers) -> Rounds:
        servers.rabbitmq.wait_ready()
        owner = await make_control_plane(servers.postgres, _CARRYING)
        try:
            async with open_database(servers.postgres.url(_CARRYING), name="pgferry-bench") as database:
                carrying = Carrying(database, owner, servers.rabbitmq.url(BENCH_VHOST), self.messages)
                with (
                    self.narration.step(
                        f"{self.messages} messages by relay and intake, {self.rounds} rounds"
                    ),
                    _logs_into(servers.stack.directory / "carrying.log"),
                ):
                    return await carrying(self.rounds)
        finally:
            await owner.close()


@contextmanager
def _logs_into(path: Path) -> Iterator[None]:
    """A service logs each command it takes; that is a part of what a message costs."""
    with path.open("w", encoding="utf-8", buffering=1) as file, redirect_stderr(file):
        logs.configure(service="bench")
        yield
