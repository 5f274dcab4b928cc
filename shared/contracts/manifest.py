"""What is written beside a backup: `dump.json` in the spool, the manifest in the chat.

The exporter writes `Dump`; the uploader adds the messages and makes the `Manifest`; `pgferry backups
fetch` reads it. Sizes are bytes, times UTC, hashes lower-case hexadecimal SHA-256.
"""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from shared.contracts.job import Compression, Format, ProjectId

Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Part(Document):
    """One piece of the stored stream; pieces in order of `index` make the whole."""

    index: NonNegativeInt
    size_bytes: PositiveInt
    sha256: Sha256Hex


class Stream(Document):
    size_bytes: NonNegativeInt
    sha256: Sha256Hex


class Encryption(Document):
    """How the stored stream is encrypted, and for which keys.

    A fingerprint is the first 16 hex digits of SHA-256 of an age recipient: enough to find the right key.
    """

    method: Literal["age"] = "age"
    recipients: tuple[str, ...]


class TableRows(Document):
    """A table's rows in the snapshot; partitions count each by itself, a partitioned parent has none."""

    name: str
    rows: NonNegativeInt


class Facts(Document):
    """What the backup holds and what it could not carry: for the owner of the data only."""

    tables: tuple[TableRows, ...]
    warnings: tuple[str, ...] = ()


class DumpRecord(Document):
    """What is known of a finished dump, wherever its parts lie."""

    job_id: UUID
    dump_fence: PositiveInt
    project_id: ProjectId
    schema_name: str
    format: Format
    compression: Compression
    encryption: Encryption | None
    snapshot_at: AwareDatetime
    duration_seconds: float = Field(ge=0)
    server_version: str
    client_version: str
    plain: Stream
    stored: Stream
    tables: NonNegativeInt
    rows: NonNegativeInt
    facts: str
    """`Facts` as JSON: base64 of an age file when `encryption` is set, else the JSON text itself."""


class Dump(DumpRecord):
    """`dump.json` in the spool; written last, so its presence means the parts are whole."""

    parts: tuple[Part, ...] = Field(min_length=1)


class SentPart(Part):
    """A part and the one message that holds it; ids are those of the sending bot."""

    chat_id: int
    message_id: PositiveInt
    file_id: str
    file_unique_id: str


class Manifest(Document):
    """The commit point of a backup: the last document sent, naming one message for each part."""

    kind: Literal["pgferry.manifest.v1"] = "pgferry.manifest.v1"
    backup_id: UUID
    type: Literal["database", "storage", "logs"] = "database"
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    bot_id: int
    filename: str
    """Name of the whole stored stream, e.g. `acme-20261121T220000Z-1a2b3c4d.sql.zst.age`."""
    caption: str | None
    storage_path: str | None
    dump: DumpRecord
    parts: tuple[SentPart, ...] = Field(min_length=1)
