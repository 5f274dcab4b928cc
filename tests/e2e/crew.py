"""One stack for all tests of a module: who is killed in a test is replaced, and may be the next one's victim.

Leases are long, so that only a victim loses its job however slow the machine is; `lapse` lets the time pass.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from sandbox.held_commits import let_commits_be_held
from sandbox.stack import Service, Stack, http_post
from sandbox.tenants import create_small_tenant
from shared.storage.database import Database, open_database
from tests.e2e import gates, steps
from tests.e2e.gates import Gate, Waiting

#: Nobody loses a lease by being slow; whatever else is waited for comes at once.
PATIENT = {
    "PGFERRY_LEASE_SECONDS": 300,
    "PGFERRY_HEARTBEAT_SECONDS": 90,
    "PGFERRY_POLL_SECONDS": 0.3,
    "PGFERRY_RETRY_SCALE": 0.01,
    "PGFERRY_RECONCILE_SECONDS": 1,
}

_SERVICE_ROLES = ("pgferry_gateway", "pgferry_exporter", "pgferry_uploader")


@dataclass(slots=True)
class Crew:
    stack: Stack
    connection: asyncpg.Connection
    database: Database
    projects: int = 0

    async def new_project(self) -> str:
        """A project with a small schema of its own, `tenant_<project>`."""
        self.projects += 1
        name = f"p{self.projects}"
        await create_small_tenant(self.connection, slug=name, rows=10)
        await self.stack.add_project(self.connection, name, slug=name)
        return name

    def member(self, name: str) -> Service:
        """The service of this name that runs and is ready, started now if there is none."""
        self.members(name)
        return next(
            service for service in self.stack.services if service.name == name and service.child.running
        )

    def post_export(self, project: str) -> tuple[int, UUID | None]:
        """The answer's status, 0 if there was none, and its job."""
        headers = {"Authorization": f"Bearer {steps.token_for(self.stack, project)}"}
        url = f"{self.stack.gateway_url}/api/backup/export"
        status, text = http_post(url, {"project_id": project}, headers)
        return status, UUID(json.loads(text)["data"]["job_id"]) if text else None

    async def lapse(self, job_id: UUID) -> None:
        """As if a lease's time had passed without a word of its holder."""
        changed = await self.connection.execute(
            "UPDATE control_plane.jobs SET lease_until = now() WHERE id = $1 AND lease_until > now()", job_id
        )
        assert changed == "UPDATE 1"

    def members(self, *names: str) -> None:
        """All of these run; those that are started now are so at once."""
        running = {service.name for service in self.stack.services if service.child.running}
        started = [self.stack.start(name, **PATIENT) for name in names if name not in running]
        for service in started:
            service.wait_ready()

    async def waiting(self, gate: Gate, statement: str, *, service: str = "%") -> Waiting:
        return await gates.waiting(self.connection, gate, statement, service=service)

    async def end_session(self, session: Waiting) -> None:
        """As when a dead process's host is gone: what the session had not committed never will be."""
        await self.connection.execute("SELECT pg_terminate_backend($1, 10000)", session.pid)

    async def completed(self, job_id: UUID) -> asyncpg.Record:
        """The job's row once it is completed; there is one backup, and nothing is left over."""
        row = await steps.ended(self.connection, job_id)
        assert (row["status"], row["error_message"]) == ("completed", None)
        await steps.require_nothing_left(self.stack, self.connection, job_id)
        return row


@asynccontextmanager
async def crew_of(stack: Stack) -> AsyncIterator[Crew]:
    """Commits of the services may be held (`commits_held`), the test's own never are."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        await let_commits_be_held(connection, _SERVICE_ROLES)
        async with open_database(stack.database_url, name="pgferry-test") as database:
            yield Crew(stack, connection, database)
    finally:
        await connection.close()
