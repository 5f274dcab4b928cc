"""What a person decides about a letter, carried out in PostgreSQL: `pgferry dlq requeue` and `discard`.

Each decision is one transaction with its audit row (but for a command that is accepted anew, which has its
own beside it); the letter is acknowledged after the commit, so a crash
in between shows the letter again, and the job says that it was requeued already.
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import asyncpg
from pydantic import ValidationError

from shared.contracts.envelope import header_text
from shared.contracts.job import Stage
from shared.contracts.letter import Letter
from shared.contracts.messages import ExportRequested
from shared.storage.database import Database, Transaction
from shared.storage.jobs import job_of
from shared.storage.requests import Outcome, Request, Source, accept

# The dump is gone on with only if nothing of its set was given up: a backup must not name a message that is
# to be deleted. A letter older than the job's last requeue, or whose job has not failed, finds nothing here.
_REQUEUE = """
    UPDATE control_plane.jobs AS job
       SET status = 'pending',
           stage = CASE WHEN job.stage = 'uploading' AND NOT EXISTS (
                   SELECT FROM control_plane.backup_parts AS part
                    WHERE part.job_id = job.id AND part.dump_fence = job.dump_fence
                      AND part.status IN ('superseded', 'deleted', 'remote_remains'))
               THEN 'dumped' ELSE 'queued' END,
           fence = fence + 1, replay_count = $2 + 1, dump_attempts = 0, upload_attempts = 0,
           run_after = now(), finished_at = NULL, cancel_requested_at = NULL, progress = NULL,
           revision = revision + 1
     WHERE id = $1 AND status = 'failed' AND replay_count <= $2
    RETURNING *
"""

_EQUAL = """
    SELECT waiting.id
      FROM control_plane.jobs AS failed
      JOIN control_plane.jobs AS waiting USING (project_id, options_hash)
     WHERE failed.id = $1 AND waiting.status = 'pending' AND waiting.stage = 'queued'
"""

_ACTOR = "cli"


class Way(StrEnum):
    """What a requeue came to."""

    RESUMED = "resumed"  #: the job goes on with the dump that lies in the spool
    FROM_DUMP = "from_dump"  #: the job begins again at the dump
    PUBLISHED = "published"  #: the message is published again by the next relay
    ACCEPTED = "accepted"  #: the job is known no more: its command was accepted as a new request
    JOINED = "joined"  #: as `accepted`, and an equal request waited already
    ALREADY = "already"  #: it was requeued before, and only the letter was left
    REFUSED = "refused"  #: nothing was done; the letter stays


@dataclass(frozen=True, slots=True)
class Requeued:
    way: Way
    sentence: str
    job_id: UUID | None = None

    @property
    def settled(self) -> bool:
        """Whether the letter has no further use."""
        return self.way is not Way.REFUSED


@dataclass(frozen=True, slots=True)
class Requeue:
    """`user` is who decided, for the audit."""

    database: Database
    user: str

    async def __call__(self, letter: Letter) -> Requeued:
        """Do the letter's work again. Raises Unavailable; then nobody knows, and asking again is harmless."""
        if letter.job_id is None:
            return await self._publish_again(letter)
        while True:
            try:
                done = await self._put_back(letter, letter.job_id)
            except asyncpg.UniqueViolationError:
                done = await self._refused(letter.job_id)
                if done is None:
                    continue  # the equal job has been claimed since
            return done or await self._accept_anew(letter)

    async def _put_back(self, letter: Letter, job_id: UUID) -> Requeued | None:
        """None for a job that nobody knows any more."""
        async with self.database.transaction() as transaction:
            record = await transaction.executor.fetchrow(_REQUEUE, job_id, letter.replay_count)
            if record is not None:
                done = _put_back(transaction, record)
            elif await transaction.jobs.find(job_id) is not None:
                done = Requeued(Way.ALREADY, f"job {job_id} was requeued before", job_id)
            else:
                return None
            await _audit(transaction, "dlq.requeue", letter, user=self.user, detail={"way": done.way.value})
        return done

    async def _refused(self, job_id: UUID) -> Requeued | None:
        async with self.database.session() as session:
            waiting: UUID | None = await session.executor.fetchval(_EQUAL, job_id)
        if waiting is None:
            return None
        sentence = f"job {waiting} with the same options waits already; discard this letter, or wait for it"
        return Requeued(Way.REFUSED, sentence, job_id)

    async def _accept_anew(self, letter: Letter) -> Requeued:
        """The letter's own id is the request's, so that the same letter is the same request."""
        try:
            options = ExportRequested.model_validate_json(letter.delivery.body)
            request_id = UUID(letter.id)
        except (ValidationError, ValueError):
            return Requeued(Way.REFUSED, f"job {letter.job_id} is known no more, and the body is no command")
        request = Request(
            request_id=request_id,
            options=options,
            source=Source.CLI,
            actor=_ACTOR,
            announce=False,
            traceparent=letter.delivery.traceparent,
            command=letter.delivery.body,
        )
        accepted = await accept(self.database, request)
        way = _WAY_OF[accepted.outcome]
        async with self.database.transaction() as transaction:
            await _audit(transaction, "dlq.requeue", letter, user=self.user, detail={"way": way.value})
        said = f"job {letter.job_id} is known no more: its command is now job {accepted.job.id}"
        return Requeued(way, said, accepted.job.id)

    async def _publish_again(self, letter: Letter) -> Requeued:
        envelope = letter.again()
        if envelope is None:
            return Requeued(Way.REFUSED, "it does not say from which exchange of pgferry it came")
        async with self.database.transaction() as transaction:
            await transaction.outbox.add(envelope)
            detail = {"way": Way.PUBLISHED.value, "outbox_id": str(envelope.id)}
            await _audit(transaction, "dlq.requeue", letter, user=self.user, detail=detail)
        address = f"{envelope.exchange or 'the default exchange'} as {envelope.routing_key}"
        return Requeued(Way.PUBLISHED, f"published again on {address} as soon as a service runs")


@dataclass(frozen=True, slots=True)
class Discard:
    """`user` is who decided, for the audit."""

    database: Database
    user: str

    async def __call__(self, letter: Letter) -> None:
        """Note that the letter is thrown away; its job stays failed. Raises Unavailable."""
        async with self.database.transaction() as transaction:
            await _audit(transaction, "dlq.discard", letter, user=self.user, detail={})


_WAY_OF = {
    Outcome.CREATED: Way.ACCEPTED,
    Outcome.COALESCED: Way.JOINED,
    Outcome.KNOWN: Way.ALREADY,
}


def _put_back(transaction: Transaction, record: asyncpg.Record) -> Requeued:
    job = job_of(record)
    if job.stage is Stage.DUMPED:
        transaction.jobs.waits_for_upload = True
        return Requeued(Way.RESUMED, f"job {job.id} goes on with the dump in the spool", job.id)
    transaction.jobs.waits_for_dump = True
    return Requeued(Way.FROM_DUMP, f"job {job.id} begins again at the dump", job.id)


async def _audit(
    transaction: Transaction, action: str, letter: Letter, *, user: str, detail: dict[str, str]
) -> None:
    await transaction.audit.add(
        _ACTOR,
        action,
        project_id=letter.project_id,
        job_id=letter.job_id,
        detail={
            "user": user,
            "letter": letter.id,
            "queue": letter.queue,
            "reason": letter.reason,
            "message_id": header_text(letter.delivery.message_id),
            "replay_count": letter.replay_count,
            **detail,
        },
    )
