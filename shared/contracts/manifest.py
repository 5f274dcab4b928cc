"""What is written beside a backup: `dump.json` in the spool, the manifest in the chat.

The exporter writes `Dump`; the uploader adds the messages and makes the `Manifest`; `pgferry backups
fetch` reads it. A file that an operator sent has a `FileManifest`. Sizes are bytes, times UTC, hashes
lower-case hexadecimal SHA-256.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter

from shared.contracts.job import Compression, Format, ProjectId

#: A bot gets back at most 20 MiB of what it sent.
PART_SIZE_BYTES: Final = 19 * 1024 * 1024
#: The dump fence of a set of documents that no job has sent: every dump's is greater.
NO_DUMP: Final = 0

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


class SentBackup(Document):
    """What every manifest says; it is a backup's last document, and names one message for each part."""

    backup_id: UUID
    type: Literal["database", "storage", "logs"] = "database"
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    bot_id: int
    filename: str
    """Name of the whole stored stream, e.g. `acme-20261121T220000Z-1a2b3c4d.sql.zst.age`."""
    caption: str | None
    storage_path: str | None
    parts: tuple[SentPart, ...] = Field(min_length=1)


class Manifest(SentBackup):
    """Of a dump."""

    kind: Literal["pgferry.manifest.v1"] = "pgferry.manifest.v1"
    dump: DumpRecord

    @property
    def project_id(self) -> str:
        return self.dump.project_id

    @property
    def stored(self) -> Stream:
        return self.dump.stored

    @property
    def set_id(self) -> UUID:
        """What the rows of its documents are found by, with `dump_fence`."""
        return self.dump.job_id

    @property
    def dump_fence(self) -> int:
        return self.dump.dump_fence


class FileManifest(SentBackup):
    """Of a file that an operator sent as it is: no job has made it, and its set has the backup's id."""

    kind: Literal["pgferry.file.v1"] = "pgferry.file.v1"
    project_id: ProjectId
    stored: Stream

    @property
    def set_id(self) -> UUID:
        return self.backup_id

    @property
    def dump_fence(self) -> int:
        return NO_DUMP


AnyManifest = Manifest | FileManifest
_ANY: Final[TypeAdapter[AnyManifest]] = TypeAdapter(Annotated[AnyManifest, Field(discriminator="kind")])


def manifest_of(document: object) -> AnyManifest:
    """Raises ValidationError."""
    return _ANY.validate_python(document)


def part_limit(index: int, part_size_bytes: int) -> int:
    """The largest size of part `index`: Telegram throttles uploads of equal size, so sizes differ.

    At 19 MiB the step is 4 KiB; smaller parts, as tests use, step in proportion.
    """
    return part_size_bytes - (part_size_bytes // 4864) * (index % 64)


def part_sizes(size_bytes: int, part_size_bytes: int) -> list[int]:
    """How a file of this size is cut; nothing of an empty one."""
    sizes: list[int] = []
    while size_bytes:
        sizes.append(min(size_bytes, part_limit(len(sizes), part_size_bytes)))
        size_bytes -= sizes[-1]
    return sizes
