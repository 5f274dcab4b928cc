"""Ends our own sessions on the tenants' server whose attempt is over: a duty of the exporters.

A worker ends its sessions by itself, and the next attempt those of earlier ones. What is left is that of a
worker that froze, or was cut off, and whose job nobody dumps again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import structlog

from services.exporter.complaints import SERVER_ERRORS, refusal_of
from services.exporter.tenant import speaking_to_tenant
from shared.storage.database import Database

KINDS = ("ended",)

_CONNECT_SECONDS = 10.0

# A name says job and fence, see Claim.application_name. Of other users' sessions it is not shown to us.
_NAMES = """
    SELECT DISTINCT application_name AS name
      FROM pg_catalog.pg_stat_activity
     WHERE usename = current_user
       AND application_name ~ '^pgferry:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:[0-9]{1,18}$'
"""

_END = """
    SELECT pg_catalog.pg_terminate_backend(pid)
      FROM pg_catalog.pg_stat_activity
     WHERE usename = current_user AND application_name = ANY($1::text[])
"""

_FENCES = """
    SELECT id, fence, status = 'running' AND coalesce(lease_until >= now(), false) AS held
      FROM control_plane.jobs WHERE id = ANY($1::uuid[])
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Whose sessions these are."""

    name: str
    job_id: UUID
    fence: int

    @classmethod
    def of(cls, name: str) -> "Attempt":
        _, job_id, fence = name.split(":")
        return cls(name, UUID(job_id), int(fence))


@dataclass(frozen=True, slots=True)
class OldSessions:
    database: Database
    url: str = field(repr=False)  #: of the tenants' server
    answer_seconds: float

    async def __call__(self) -> Mapping[str, int]:
        """Look at the server first, then at the jobs: an attempt that is over then is over for ever.

        A job that the database does not know is another pgferry's. Raises Unavailable.
        """
        server = await self._connect()
        try:
            with speaking_to_tenant():
                attempts = [Attempt.of(record["name"]) for record in await server.fetch(_NAMES)]
            over = await self._over(attempts)
            with speaking_to_tenant():
                ended = len(await server.fetch(_END, over)) if over else 0
        finally:
            server.terminate()
        if ended:
            log.warning("sessions of attempts that are over were ended", sessions=ended)
        return {"ended": ended}

    async def _over(self, attempts: Sequence[Attempt]) -> list[str]:
        async with self.database.session() as session:
            records = await session.executor.fetch(_FENCES, [attempt.job_id for attempt in attempts])
        return list(_over(attempts, {record["id"]: record for record in records}))

    async def _connect(self) -> asyncpg.Connection:
        try:
            return await asyncpg.connect(
                self.url,
                timeout=_CONNECT_SECONDS,
                command_timeout=self.answer_seconds,
                server_settings={"application_name": "pgferry-reconciler", "search_path": "pg_catalog"},
            )
        except SERVER_ERRORS as error:
            raise refusal_of(error) from error


def _over(attempts: Iterable[Attempt], jobs: Mapping[UUID, asyncpg.Record]) -> Iterable[str]:
    for attempt in attempts:
        job = jobs.get(attempt.job_id)
        if job and (attempt.fence < job["fence"] or (attempt.fence == job["fence"] and not job["held"])):
            yield attempt.name
