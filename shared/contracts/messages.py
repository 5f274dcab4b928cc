"""The messages on the broker: JSON, frozen, versioned by their type.

Readers ignore unknown fields; a changed meaning is a new type (`….v2`). JSON Schemas and the AsyncAPI
document in docs/messages are generated from these classes.
"""

from typing import ClassVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from shared.contracts.job import ExportOptions, ProjectId, StageGroup

Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    type: ClassVar[str]


class ExportRequested(ExportOptions):
    """Please back up this project. Gateway and platform services -> exporter.

    `project_id` alone is enough. The AMQP `message_id`, a UUID, is the request id: the same id again is
    the same request.
    """

    type: ClassVar[str] = "export.requested.v1"


class DumpReady(Message):
    """A dump lies in the spool under `<job_id>/<dump_fence>/`. exporter -> uploader."""

    type: ClassVar[str] = "dump.ready.v1"

    job_id: UUID
    project_id: ProjectId
    dump_fence: PositiveInt


class BackupStored(Message):
    """A backup is in the chat and recorded. uploader -> anybody, once per job."""

    type: ClassVar[str] = "backup.stored.v1"

    backup_id: UUID
    job_id: UUID
    project_id: ProjectId
    size_bytes: PositiveInt = Field(description="what was stored, after compression and encryption")
    sha256: str = Sha256
    parts: PositiveInt
    tables: NonNegativeInt
    rows: NonNegativeInt
    stored_at: AwareDatetime


class BackupFailed(Message):
    """A job was given up. exporter or uploader -> anybody, once per failed job."""

    type: ClassVar[str] = "backup.failed.v1"

    job_id: UUID
    project_id: ProjectId
    group: StageGroup
    code: str
    reason: str
    attempts: NonNegativeInt
    failed_at: AwareDatetime


MESSAGES: tuple[type[Message | ExportRequested], ...] = (
    ExportRequested,
    DumpReady,
    BackupStored,
    BackupFailed,
)
