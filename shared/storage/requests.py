"""Accepting a request: job, request, command and audit row in one statement.

The gateway, intake and `pgferry export` call it. The unique indexes on pending jobs and on request ids
decide between concurrent requests, so no lock is held and nothing is checked before it is written.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID, uuid4

import asyncpg

from shared.contracts.envelope import Envelope, envelope_of
from shared.contracts.job import ExportOptions
from shared.contracts.messages import ExportRequested
from shared.storage.database import Database
from shared.storage.jobs import Job, job_of

_ACCEPT = """
    WITH known AS (
        SELECT job_id FROM control_plane.job_requests WHERE request_id = $1
    ), job AS (
        INSERT INTO control_plane.jobs AS job
            (id, project_id, priority, format, compression, filename, caption, storage_path,
             expires_in_days, options_hash, command, traceparent)
        SELECT $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13
         WHERE NOT EXISTS (SELECT FROM known)
        ON CONFLICT (project_id, options_hash) WHERE status = 'pending' AND stage = 'queued'
        DO UPDATE SET priority = least(job.priority, excluded.priority),
                      revision = job.revision + (excluded.priority < job.priority)::int
        RETURNING *
    ), request AS (
        INSERT INTO control_plane.job_requests (request_id, job_id, project_id, notify_email, source)
        SELECT $1, id, project_id, $14, $15 FROM job
    ), command AS (
        INSERT INTO control_plane.outbox
            (id, exchange, routing_key, message_type, body, headers, correlation_id)
        SELECT $1, $18, $19, $19, $12, $20, id FROM job WHERE id = $2 AND $18::text IS NOT NULL
        ON CONFLICT (id) DO NOTHING
    ), audit AS (
        INSERT INTO control_plane.audit_log (actor, action, project_id, job_id, request_id, client)
        SELECT $16, CASE WHEN id = $2 THEN 'export.request' ELSE 'export.coalesce' END,
               project_id, id, $1, $17
          FROM job
    )
    SELECT job.*, CASE WHEN id = $2 THEN 'created' ELSE 'coalesced' END AS outcome FROM job
    UNION ALL
    SELECT job.*, 'known' FROM known JOIN control_plane.jobs AS job ON job.id = known.job_id
"""


class Outcome(StrEnum):
    CREATED = "created"  #: a new job
    COALESCED = "coalesced"  #: joined a job with the same options that waits for its dump
    KNOWN = "known"  #: this request id was accepted before


class Source(StrEnum):
    HTTP = "http"
    AMQP = "amqp"
    CLI = "cli"


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody wants an export; `announce` publishes the command (not for what came by the broker)."""

    request_id: UUID
    options: ExportOptions
    source: Source
    actor: str
    announce: bool
    client: str | None = None
    traceparent: str | None = None
    command: bytes | None = None
    """The original message, kept for a dead letter; made from the options when there was none."""


@dataclass(frozen=True, slots=True)
class Accepted:
    job: Job
    outcome: Outcome


async def accept(database: Database, request: Request) -> Accepted:
    """Give the request a job: a new one, a pending one with the same options, or the one it already has."""
    while True:
        async with database.session() as session:
            try:
                record = await session.executor.fetchrow(_ACCEPT, *_arguments(request))
            except asyncpg.UniqueViolationError:
                continue  # the same request id was accepted at this moment: now it is known
            if record is None:
                continue  # it was known when the statement began and its job has been removed since
            accepted = Accepted(job_of(record), Outcome(record["outcome"]))
            session.jobs.waits_for_dump = accepted.outcome is not Outcome.KNOWN
            session.outbox.grew = accepted.outcome is Outcome.CREATED and request.announce
            return accepted


def _arguments(request: Request) -> tuple[object, ...]:
    options = request.options
    job_id = uuid4()
    command = _command(request, job_id)
    return (
        request.request_id,
        job_id,
        options.project_id,
        options.priority.rank,
        options.format.value,
        options.compression.value,
        options.filename,
        options.caption,
        options.storage_path,
        options.expires_in_days,
        _options_hash(options),
        request.command or command.body,
        request.traceparent,
        options.notify_email,
        request.source.value,
        request.actor,
        request.client,
        command.exchange if request.announce else None,
        command.routing_key,
        dict(command.headers),
    )


def _command(request: Request, job_id: UUID) -> Envelope:
    """The outbox row's id is the request id: intake finds the request known and only wakes a slot."""
    return envelope_of(
        ExportRequested.model_validate(request.options.model_dump()),
        message_type=ExportRequested.type,
        correlation_id=job_id,
        traceparent=request.traceparent,
        id=request.request_id,
    )


def _options_hash(options: ExportOptions) -> bytes:
    """Equal for requests that ask for the same backup, whoever asks and how urgently."""
    same = options.model_dump(mode="json", exclude={"project_id", "priority", "notify_email"})
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).digest()
