"""A backup's type and states, and what an operator may say about one that no job makes."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.job import Caption, Filename, ProjectId, StoragePath


class BackupType(StrEnum):
    """Exports make `database`; the newest of each type is kept for itself."""

    DATABASE = "database"
    STORAGE = "storage"
    LOGS = "logs"


class BackupStatus(StrEnum):
    STORED = "stored"  #: can be fetched
    EXPIRING = "expiring"  #: its documents are being taken out of the chat
    DELETED = "deleted"  #: none of them is left
    REMOTE_REMAINS = "remote_remains"  #: what Telegram does not let a bot remove is left
    LOST = "lost"  #: its documents are not in the chat any more, and nobody asked for it


class FileOptions(BaseModel):
    """What an operator says about a file to be sent, or about a message to be adopted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project_id: ProjectId
    type: BackupType = BackupType.STORAGE
    caption: Caption | None = None
    filename: Filename | None = None
    storage_path: StoragePath | None = None
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)


class Changes(BaseModel):
    """What of a stored backup may be changed; None leaves it as it is. Days count from now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    caption: Caption | None = None
    storage_path: StoragePath | None = None
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)
    never_expires: bool = False
