"""Cancelling in `control_plane.jobs`: the statements of whoever asks, and of the worker that obeys.

`shared.storage.cancel` asks, `shared.storage.attempts` obeys. Once `cancel_requested_at` is set nobody
claims the job again, and its worker may write nothing but that end, or that everything is in the chat.
"""

from uuid import UUID

from shared.contracts.errors import LeaseLost
from shared.contracts.job import Claim
from shared.storage.executor import Executor
from shared.storage.jobs import Job, job_of

_LOCK = "SELECT * FROM control_plane.jobs WHERE id = $1 FOR UPDATE"

_CANCELLED = """
           status = 'cancelled', finished_at = now(), progress = NULL, owner = NULL, lease_until = NULL,
           error_code = 'cancelled', error_message = 'Somebody asked for it to be cancelled.',
           revision = revision + 1
"""

# The fence rises with the end of somebody else's lapsed lease: a late worker finds its own gone.
_UNHELD = f"""
    UPDATE control_plane.jobs
       SET fence = fence + 1, {_CANCELLED}
     WHERE id = $1 AND status IN ('pending', 'running') AND (lease_until IS NULL OR lease_until < now())
    RETURNING *
"""

_ASK = """
    UPDATE control_plane.jobs SET cancel_requested_at = now(), revision = revision + 1
     WHERE id = $1 AND status = 'running' AND lease_until >= now() AND cancel_requested_at IS NULL
    RETURNING *
"""

# A lease that has lapsed is no reason not to: nobody else can have claimed the job.
_OBEY = f"""
    UPDATE control_plane.jobs
       SET {_CANCELLED}
     WHERE id = $1 AND fence = $2 AND status = 'running' AND cancel_requested_at IS NOT NULL
"""


class Cancellations:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.asked: set[UUID] = set()
        """Jobs whose workers are to look."""
        self.freed = False
        """A project may begin another job."""

    async def lock(self, job_id: UUID) -> Job | None:
        """The job, which nobody else changes before the transaction ends."""
        record = await self._executor.fetchrow(_LOCK, job_id)
        return job_of(record) if record else None

    async def unheld(self, job_id: UUID) -> Job | None:
        """Cancel a job that no live lease holds; None when it is held, ended or unknown."""
        record = await self._executor.fetchrow(_UNHELD, job_id)
        self.freed = record is not None
        return job_of(record) if record else None

    async def ask(self, job_id: UUID) -> Job | None:
        """Ask the worker that holds the job to stop; None when that was asked before, or nobody holds it."""
        self.asked.add(job_id)
        record = await self._executor.fetchrow(_ASK, job_id)
        return job_of(record) if record else None

    async def obey(self, claim: Claim) -> None:
        """Let the worker's job be cancelled, as was asked. Raises LeaseLost when nobody has asked."""
        if await self._executor.execute(_OBEY, claim.job_id, claim.fence) != "UPDATE 1":
            raise LeaseLost
        self.freed = True
