"""What the API does, apart from HTTP: ask for an export, look at a job."""

import re
from dataclasses import dataclass
from uuid import UUID, uuid4

from services.gateway.auth import Caller
from services.gateway.metrics import EXPORTS_ACCEPTED
from shared.contracts.job import ExportOptions
from shared.storage.database import Database
from shared.storage.jobs import Job
from shared.storage.requests import Accepted, Request, Source, accept

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Forbidden(Exception):
    """The caller's token is not for this project."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from: for the audit log and for traces."""

    caller: Caller
    client: str
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class RequestExport:
    """Give the caller a job, committed together with its command; no broker is asked."""

    database: Database

    async def __call__(self, options: ExportOptions, origin: Origin) -> Accepted:
        """Raises Forbidden, and Unavailable when PostgreSQL is away."""
        if not origin.caller.may_use(options.project_id):
            raise Forbidden
        request = Request(
            request_id=uuid4(),
            options=options,
            source=Source.HTTP,
            actor=origin.caller.name,
            announce=True,
            client=origin.client,
            traceparent=_well_formed(origin.traceparent),
        )
        accepted = await accept(self.database, request)
        EXPORTS_ACCEPTED.labels(accepted.outcome.value).inc()
        return accepted


@dataclass(frozen=True, slots=True)
class FindJob:
    """A job as far as the caller may know of it."""

    database: Database

    async def __call__(self, job_id: str, caller: Caller) -> Job | None:
        """None for an unknown id, for what is no id, and for another project's job alike."""
        try:
            identity = UUID(job_id)
        except ValueError:
            return None
        async with self.database.session() as session:
            job = await session.jobs.find(identity)
        return job if job is not None and caller.may_use(job.project_id) else None


def _well_formed(traceparent: str | None) -> str | None:
    return traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None
