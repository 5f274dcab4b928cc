"""A job: what may be asked for, and the states it goes through.

The gateway and intake make jobs from `ExportOptions`; storage carries out the moves; the exporter and
the uploader each work the stages of one `StageGroup`.
"""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, StringConstraints

from shared.contracts.errors import PermanentError


class Status(StrEnum):
    """What the public sees; it only moves forward (a requeue of a failed job is the one way back)."""

    PENDING = "pending"  #: accepted or requeued, nobody has begun
    RUNNING = "running"  #: begun; the project is bound to this job until it ends
    COMPLETED = "completed"  #: stored and recorded
    FAILED = "failed"  #: given up; a dead letter says why
    CANCELLED = "cancelled"  #: somebody asked for it to stop


class Stage(StrEnum):
    """Where the job is; it may go back after a retry, a drain or a lapsed lease."""

    QUEUED = "queued"  #: waits for an exporter
    DUMPING = "dumping"  #: an exporter holds it, or held it until its lease lapsed
    DUMPED = "dumped"  #: the dump lies in the spool and waits for an uploader
    UPLOADING = "uploading"  #: an uploader holds it, or held it until its lease lapsed
    STORED = "stored"  #: in the chat and recorded


class StageGroup(StrEnum):
    """The two halves of a job; each has its own count of attempts."""

    DUMP = "dump"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Half:
    """The stages of one group: where a worker finds a job, and holds it."""

    waiting: Stage
    held: Stage


HALVES = {
    StageGroup.DUMP: Half(Stage.QUEUED, Stage.DUMPING),
    StageGroup.UPLOAD: Half(Stage.DUMPED, Stage.UPLOADING),
}

#: Every move a job may make, as (status, stage) pairs; drawn in docs/architecture.md, checked by a test.
MOVES: frozenset[tuple[tuple[Status, Stage], tuple[Status, Stage]]] = frozenset(
    {
        ((Status.PENDING, Stage.QUEUED), (Status.RUNNING, Stage.DUMPING)),
        ((Status.PENDING, Stage.QUEUED), (Status.CANCELLED, Stage.QUEUED)),
        ((Status.PENDING, Stage.DUMPED), (Status.RUNNING, Stage.UPLOADING)),
        ((Status.PENDING, Stage.DUMPED), (Status.CANCELLED, Stage.DUMPED)),
        ((Status.RUNNING, Stage.QUEUED), (Status.RUNNING, Stage.DUMPING)),
        ((Status.RUNNING, Stage.QUEUED), (Status.CANCELLED, Stage.QUEUED)),
        ((Status.RUNNING, Stage.DUMPING), (Status.RUNNING, Stage.DUMPING)),
        ((Status.RUNNING, Stage.DUMPING), (Status.RUNNING, Stage.QUEUED)),
        ((Status.RUNNING, Stage.DUMPING), (Status.RUNNING, Stage.DUMPED)),
        ((Status.RUNNING, Stage.DUMPING), (Status.FAILED, Stage.DUMPING)),
        ((Status.RUNNING, Stage.DUMPING), (Status.CANCELLED, Stage.DUMPING)),
        ((Status.RUNNING, Stage.DUMPED), (Status.RUNNING, Stage.UPLOADING)),
        ((Status.RUNNING, Stage.DUMPED), (Status.CANCELLED, Stage.DUMPED)),
        ((Status.RUNNING, Stage.UPLOADING), (Status.RUNNING, Stage.UPLOADING)),
        ((Status.RUNNING, Stage.UPLOADING), (Status.RUNNING, Stage.DUMPED)),
        ((Status.RUNNING, Stage.UPLOADING), (Status.RUNNING, Stage.QUEUED)),
        ((Status.RUNNING, Stage.UPLOADING), (Status.COMPLETED, Stage.STORED)),
        ((Status.RUNNING, Stage.UPLOADING), (Status.FAILED, Stage.UPLOADING)),
        ((Status.RUNNING, Stage.UPLOADING), (Status.CANCELLED, Stage.UPLOADING)),
        ((Status.FAILED, Stage.DUMPING), (Status.PENDING, Stage.QUEUED)),
        ((Status.FAILED, Stage.UPLOADING), (Status.PENDING, Stage.DUMPED)),
        ((Status.FAILED, Stage.UPLOADING), (Status.PENDING, Stage.QUEUED)),
    }
)

FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Priority(StrEnum):
    NORMAL = "normal"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """Order of claims: the lower rank first."""
        return Rank[self.name]


class Rank(IntEnum):
    HIGH = 0
    NORMAL = 1


class Format(StrEnum):
    SQL = "sql"  #: pg_dump's plain format
    TAR = "tar"  #: pg_dump's tar format


class Compression(StrEnum):
    ZSTD = "zstd"
    GZIP = "gzip"
    NONE = "none"


def _printable(text: str) -> str:
    """Refuse control characters, line and paragraph separators: they break logs, captions and terminals."""
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise ValueError("must not contain control characters")
    return text


def _relative_folder(path: str) -> str:
    """Accept `invoices/2026`, refuse anything that could climb or start elsewhere."""
    if path.startswith("/") or "\\" in path:
        raise ValueError("must be a relative path with forward slashes, like invoices/2026")
    if any(segment in {"", ".", ".."} for segment in path.split("/")):
        raise ValueError("must not contain empty segments, '.' or '..'")
    return path


ProjectId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Caption = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_printable)]
Filename = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,47}$")]
StoragePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_printable),
    AfterValidator(_relative_folder),
]
NotifyEmail = Annotated[EmailStr, Field(max_length=254), AfterValidator(_printable)]


class ExportOptions(BaseModel):
    """What a requester may say about an export, in an HTTP body or a message.

    `format`, `compression`, `filename`, `caption`, `storage_path` and `expires_in_days` make two requests
    the same or different; `priority` and `notify_email` do not.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    project_id: ProjectId
    format: Format = Field(default=Format.SQL, strict=False)
    compression: Compression = Field(default=Compression.ZSTD, strict=False)
    priority: Priority = Field(default=Priority.NORMAL, strict=False)
    notify_email: NotifyEmail | None = None
    storage_path: StoragePath | None = None
    caption: Caption | None = None
    filename: Filename | None = None
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)


SLUG_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,55}")


def schema_of(slug: str) -> str:
    """The tenant's schema name.

    Raises PermanentError `invalid_slug` for a slug that could reach another schema, even if a schema of
    that name exists: whitelisting is the first wall, the quoted pattern of `pg_dump -n` the second.
    """
    if not SLUG_PATTERN.fullmatch(slug):
        raise PermanentError(
            "invalid_slug",
            "The project's slug must be 1-56 lower-case letters, digits, '_' or '-', "
            "starting with a letter or digit; correct it in control_plane.projects.",
        )
    return f"tenant_{slug}"


@dataclass(frozen=True, slots=True)
class Claim:
    """One worker's right to work on one job: every later write quotes `fence`."""

    job_id: UUID
    project_id: str
    group: StageGroup
    fence: int
    attempts: int  #: of this stage group, this one included
    dump_fence: int | None
    options: ExportOptions
    created_at: datetime
    traceparent: str | None
    lease_seconds: float
    renewed_at: float  #: monotonic seconds, read before the statement that gave or renewed the lease

    @property
    def application_name(self) -> str:
        """Marks every server session of this claim, so that a later fence can end it."""
        return f"pgferry:{self.job_id}:{self.fence}"
