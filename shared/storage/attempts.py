"""How a worker's attempt begins and ends in PostgreSQL: the port of `shared.runtime.worker`, fulfilled.

Giving a job up is one transaction: the row, the event `backup.failed` and the dead letter. So is a cancel
that was asked for: the row, and the parts in the chat that are to be deleted.
"""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.contracts.envelope import Envelope, HeaderValue, dead_letter, envelope_of
from shared.contracts.job import HALVES, Claim, Stage, StageGroup
from shared.contracts.messages import BackupFailed, ExportRequested
from shared.contracts.topology import dead_key
from shared.contracts.verdict import Dead, HandBack, RetryAt
from shared.storage.database import Database, Transaction
from shared.storage.jobs import Job
from shared.storage.nudges import cancel_of


@dataclass(frozen=True, slots=True)
class Attempts:
    """`service` names the dead-letter queue; `owner` is what operators see in `jobs.owner`; `at_most` is how
    many jobs of this half all processes together may hold.
    """

    database: Database
    group: StageGroup
    service: str
    owner: str
    lease_seconds: float
    at_most: int | None = None

    async def claim(self) -> Claim | None:
        async with self.database.session() as session:
            return await session.jobs.claim(
                self.group, owner=self.owner, lease_seconds=self.lease_seconds, at_most=self.at_most
            )

    def watching(self, claim: Claim) -> AbstractContextManager[asyncio.Event]:
        return self.database.nudges.watching(cancel_of(claim.job_id))

    async def renew(self, claim: Claim, progress: Mapping[str, int]) -> None:
        async with self.database.session() as session:
            await session.jobs.renew(claim, progress=progress)

    async def retry(self, claim: Claim, retry: RetryAt) -> None:
        stage = Stage.QUEUED if retry.from_dump else HALVES[self.group].waiting
        await self._put_back(claim, retry, stage=stage, give_back=False)

    async def hand_back(self, claim: Claim, hand_back: HandBack) -> None:
        await self._put_back(claim, hand_back, stage=HALVES[self.group].waiting, give_back=True)

    async def bury(self, claim: Claim, dead: Dead) -> None:
        async with self.database.transaction() as transaction:
            await bury(transaction, claim, dead, service=self.service)

    async def obey_cancel(self, claim: Claim) -> None:
        async with self.database.transaction() as transaction:
            await transaction.cancellations.obey(claim)
            await transaction.parts.supersede_all(claim.job_id)

    async def _put_back(
        self, claim: Claim, end: RetryAt | HandBack, *, stage: Stage, give_back: bool
    ) -> None:
        async with self.database.session() as session:
            await session.jobs.retry(
                claim,
                stage=stage,
                delay_seconds=end.delay_seconds if isinstance(end, RetryAt) else 0.0,
                code=end.code,
                sentence=end.sentence,
                give_back=give_back,
            )


async def bury(transaction: Transaction, claim: Claim, dead: Dead, *, service: str) -> None:
    """Give the job up, say so, and keep its command for a person. Raises LeaseLost."""
    job = await transaction.jobs.failed(claim, code=dead.code, sentence=dead.sentence)
    await transaction.outbox.add(_failed_event(job, claim))
    await transaction.outbox.add(_dead_letter(job, claim, service))


def _failed_event(job: Job, claim: Claim) -> Envelope:
    event = BackupFailed(
        job_id=job.id,
        project_id=job.project_id,
        group=claim.group,
        code=job.error_code or "",
        reason=job.error_message or "",
        attempts=claim.attempts,
        failed_at=job.last_failed_at or datetime.now(UTC),
    )
    return envelope_of(
        event, message_type=BackupFailed.type, correlation_id=job.id, traceparent=job.traceparent
    )


def _dead_letter(job: Job, claim: Claim, service: str) -> Envelope:
    headers: dict[str, HeaderValue] = {
        "x-job-id": str(job.id),
        "x-project-id": job.project_id,
        "x-reason": job.error_code or "",
        "x-message": job.error_message or "",
        "x-attempts": claim.attempts,
        "x-service": service,
        "x-host": socket.gethostname(),
        "x-first-failed-at": _iso(job.first_failed_at),
        "x-last-failed-at": _iso(job.last_failed_at),
        "x-replay-count": job.replay_count,
    }
    if job.traceparent:
        headers["traceparent"] = job.traceparent
    return dead_letter(
        job.command,
        routing_key=dead_key(service),
        message_type=ExportRequested.type,
        headers=headers,
        correlation_id=job.id,
    )


def _iso(moment: datetime | None) -> str:
    return moment.isoformat() if moment else ""
