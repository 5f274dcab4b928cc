"""The use case of whoever wants a job to end: cancels it at once, or asks the worker that holds it.

The command line calls it, again and again while it waits: asking twice changes nothing, and a job whose
worker has died since the first time is then cancelled by the second.
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from shared.contracts.job import FINAL
from shared.storage.database import Database, Transaction
from shared.storage.jobs import Job


class Way(StrEnum):
    """What a request to cancel came to."""

    AT_ONCE = "at_once"  #: nobody held the job; it is cancelled
    ASKED = "asked"  #: a worker holds it and was told to stop
    ASKED_BEFORE = "asked_before"  #: a worker holds it, was told already, and is told again
    TOO_LATE = "too_late"  #: the job had ended


@dataclass(frozen=True, slots=True)
class Cancellation:
    way: Way
    job: Job


async def cancel(database: Database, job_id: UUID, *, actor: str) -> Cancellation | None:
    """None for a job that nobody knows. What changes something is audited as `job.cancel`."""
    async with database.transaction() as transaction:
        job = await transaction.cancellations.lock(job_id)
        if job is None:
            return None
        if job.status in FINAL:
            return Cancellation(Way.TOO_LATE, job)
        done = await _cancelled_or_asked(transaction, job)
        if done.way is not Way.ASKED_BEFORE:
            await transaction.audit.add(
                actor, "job.cancel", project_id=job.project_id, job_id=job_id, detail={"way": done.way.value}
            )
        return done


async def _cancelled_or_asked(transaction: Transaction, job: Job) -> Cancellation:
    if cancelled := await transaction.cancellations.unheld(job.id):
        await transaction.parts.supersede_all(job.id)
        return Cancellation(Way.AT_ONCE, cancelled)
    if asked := await transaction.cancellations.ask(job.id):
        return Cancellation(Way.ASKED, asked)
    return Cancellation(Way.ASKED_BEFORE, job)
