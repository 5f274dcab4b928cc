"""What is written beside a backup: `dump.json` in the spool, the manifest in the chat.

The exporter writes `Dump`; the uploader adds the messages and makes the `Manifest`; `pgferry backups
fetch` reads it. Sizes are bytes, times UTC, hashes lower-case hexadecimal SHA-256.
"""

from collections.abc import Mapping
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


class Extension(Document):
    """Needed by something in the schema; `sql` makes it in the target, before the restore."""

    name: str
    schema_name: str
    version: str
    sql: str


class RowSecurity(Document):
    """A table whose rows policies filter; the policies themselves are in the dump."""

    table: str
    forced: bool
    policies: NonNegativeInt


class LargeObjects(Document):
    """Columns that may refer to large objects, and how many the database has: no schema's dump holds them."""

    columns: tuple[str, ...] = ()
    in_database: NonNegativeInt = 0


class Locale(Document):
    """Of the source database: a text sorts by it, so a unique index may see two texts as one elsewhere."""

    encoding: str
    collate: str
    ctype: str
    provider: str
    locale: str | None = None


class Facts(Document):
    """What the backup holds and what it could not carry: for the owner of the data only.

    `owners` and `grants` are statements to run after a restore, in this order, where the roles exist.
    """

    tables: tuple[TableRows, ...]
    warnings: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    materialized_views: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    foreign_tables: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    extensions: tuple[Extension, ...] = ()
    references: tuple[str, ...] = ()
    """What the dump needs outside of its schema: `table tenant_a.orders → table public.countries`."""
    row_security: tuple[RowSecurity, ...] = ()
    large_objects: LargeObjects = LargeObjects()
    owners: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    locale: Locale | None = None


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
    warnings: Mapping[str, int] = {}
    """How many warnings of each code; their sentences, which name things, are in the facts."""
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
