"""Who changed what, when: `control_plane.audit_log`, written in the transaction of the change."""

from collections.abc import Mapping
from uuid import UUID

from shared.storage.executor import Executor

_ADD = """
    INSERT INTO control_plane.audit_log (actor, action, project_id, job_id, backup_id, detail)
    VALUES ($1, $2, $3, $4, $5, $6)
"""


class Audit:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def add(
        self,
        actor: str,
        action: str,
        *,
        project_id: str | None = None,
        job_id: UUID | None = None,
        backup_id: UUID | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """`action` is `<noun>.<verb>`, e.g. `job.cancel`; `detail` never holds a secret."""
        await self._executor.execute(_ADD, actor, action, project_id, job_id, backup_id, dict(detail or {}))
