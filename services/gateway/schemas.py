"""The bodies of requests and answers, as the public sees them."""

from typing import Generic, Self, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shared.contracts.job import Compression, ExportOptions, Format, Priority, Stage, Status
from shared.contracts.manifest import DumpRecord
from shared.storage.jobs import Job

AnyData = TypeVar("AnyData", bound=BaseModel)

#: The stages in which the job's last dump is the one that will be, or is, stored.
_DUMPED_STAGES = frozenset({Stage.DUMPED, Stage.UPLOADING, Stage.STORED})


class ExportBody(ExportOptions):
    """The body of `POST /api/backup/export`; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Data(Answer, Generic[AnyData]):
    data: AnyData


class ErrorDetail(Answer):
    """One thing wrong with the body; `field` is empty for the body as a whole."""

    field: str
    code: str
    message: str


class ErrorBody(Answer):
    code: str
    message: str
    details: tuple[ErrorDetail, ...] = ()
    request_id: str


class ApiError(Answer):
    """Every answer of 400 and above."""

    error: ErrorBody


class AcceptedJob(Answer):
    job_id: UUID
    status: Status
    project_id: str
    created_at: AwareDatetime

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job_id=job.id, status=job.status, project_id=job.project_id, created_at=job.created_at)


class Attempts(Answer):
    dump: int
    upload: int


class JobOptions(Answer):
    format: Format
    compression: Compression
    filename: str | None
    caption: str | None
    storage_path: str | None
    expires_in_days: int | None

    @classmethod
    def of(cls, options: ExportOptions) -> Self:
        return cls.model_validate(options.model_dump(exclude={"project_id", "priority", "notify_email"}))


class JobError(Answer):
    """Why the last attempt failed; while the job is not final, another follows."""

    code: str
    message: str

    @classmethod
    def of(cls, job: Job) -> Self | None:
        if job.error_code is None:
            return None
        return cls(code=job.error_code, message=job.error_message or "")


class JobResult(Answer):
    """What was dumped: `bytes` by pg_dump, `stored_bytes` and `sha256` after compression and encryption."""

    bytes: int
    stored_bytes: int
    sha256: str
    tables: int
    rows: int
    server_version: str
    client_version: str
    duration_seconds: float
    warnings: dict[str, int]
    """How many things of each kind the dump does not carry; docs/export.md lists the kinds."""

    @classmethod
    def of(cls, dump: DumpRecord) -> Self:
        return cls(
            bytes=dump.plain.size_bytes,
            stored_bytes=dump.stored.size_bytes,
            sha256=dump.stored.sha256,
            tables=dump.tables,
            rows=dump.rows,
            server_version=dump.server_version,
            client_version=dump.client_version,
            duration_seconds=dump.duration_seconds,
            warnings=dict(dump.warnings),
        )


class JobBackup(Answer):
    id: UUID


class JobView(Answer):
    """The answer of `GET /api/backup/jobs/{id}`."""

    job_id: UUID
    project_id: str
    status: Status
    stage: Stage
    priority: Priority
    progress: dict[str, int] | None
    attempts: Attempts
    options: JobOptions
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    dumped_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    error: JobError | None
    result: JobResult | None
    backup: JobBackup | None

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(
            job_id=job.id,
            project_id=job.project_id,
            status=job.status,
            stage=job.stage,
            priority=job.options.priority,
            progress=dict(job.progress) if job.progress is not None else None,
            attempts=Attempts(dump=job.dump_attempts, upload=job.upload_attempts),
            options=JobOptions.of(job.options),
            created_at=job.created_at,
            started_at=job.started_at,
            dumped_at=job.dumped_at,
            finished_at=job.finished_at,
            error=JobError.of(job),
            result=JobResult.of(job.dump) if job.dump and job.stage in _DUMPED_STAGES else None,
            backup=JobBackup(id=job.backup_id) if job.backup_id else None,
        )
