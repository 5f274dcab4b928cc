"""Finished backups: `control_plane.backups`, written in the transaction that completes the job.

A file that an operator sent, and a message that was adopted, are backups without a job.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

import asyncpg

from shared.contracts.backup import BackupStatus, BackupType, Changes
from shared.contracts.job import Claim
from shared.contracts.manifest import DumpRecord, FileManifest, Manifest
from shared.storage.executor import Executor
from shared.storage.parts import Sent

_ADD = """
    INSERT INTO control_plane.backups
        (id, project_id, job_id, dump_fence, type, format, compression, encryption,
         size_bytes, sha256, plain_size_bytes, plain_sha256, part_count, table_count, row_count,
         server_version, client_version, filename, caption, storage_path,
         bot_id, chat_id, manifest_message_id, manifest_file_id, manifest_sha256,
         created_at, snapshot_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
            $21, $22, $23, $24, $25, $26, $27, $28)
"""

# The set of its documents has the backup's own id. An adopted message has no manifest.
_ADD_FILE = """
    INSERT INTO control_plane.backups
        (id, project_id, job_id, dump_fence, type, size_bytes, sha256, part_count,
         filename, caption, storage_path, bot_id, chat_id,
         manifest_message_id, manifest_file_id, manifest_sha256, adopted, created_at, expires_at)
    VALUES ($1, $2, $1, 0, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $12::bigint IS NULL, $15, $16)
"""

_UPDATE = """
    UPDATE control_plane.backups
       SET caption = coalesce($2, caption), storage_path = coalesce($3, storage_path),
           expires_at = CASE WHEN $4 THEN NULL
                             ELSE coalesce(now() + make_interval(days => $5), expires_at) END,
           revision = revision + 1
     WHERE id = $1 AND status = 'stored'
    RETURNING *
"""

_FIND = "SELECT * FROM control_plane.backups WHERE id = $1"

_LIST = """
    SELECT * FROM control_plane.backups
     WHERE ($1::text IS NULL OR project_id = $1)
       AND ($2::text IS NULL OR type = $2)
       AND ($3::text IS NULL OR status = $3)
       AND ($4::timestamptz IS NULL OR created_at >= $4)
       AND ($5::timestamptz IS NULL OR created_at < $5)
     ORDER BY created_at DESC, id
     LIMIT $6
"""

_STATISTICS = """
    SELECT project_id, type, count(*) AS backups, sum(size_bytes)::bigint AS size_bytes,
           max(created_at) AS newest_at, min(created_at) AS oldest_at
      FROM control_plane.backups
     WHERE status = 'stored' AND ($1::text IS NULL OR project_id = $1)
     GROUP BY project_id, type
     ORDER BY project_id, type
"""


@dataclass(frozen=True, slots=True)
class Backup:
    id: UUID
    project_id: str
    job_id: UUID | None
    status: str
    type: str
    format: str | None
    compression: str | None
    encryption: str | None
    size_bytes: int
    sha256: str
    part_count: int
    table_count: int | None
    row_count: int | None
    filename: str
    caption: str | None
    storage_path: str | None
    bot_id: int
    chat_id: int
    manifest_message_id: int | None
    manifest_file_id: str | None
    manifest_sha256: str | None
    adopted: bool
    created_at: datetime
    snapshot_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the stored backups of one project and type."""

    project_id: str
    type: str
    backups: int
    size_bytes: int
    newest_at: datetime
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class Filters:
    """Which backups: each that is set must hold; `since` is in, `before` is not."""

    project_id: str | None = None
    type: BackupType | None = None
    status: BackupStatus | None = None
    since: datetime | None = None
    before: datetime | None = None


EVERY = Filters()


class Backups:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def add(self, job: Claim | DumpRecord, manifest: Manifest, *, sent: Sent, sha256: str) -> None:
        """Record the job's backup, which this manifest, now message `sent` with this hash, describes."""
        dump = manifest.dump
        await self._executor.execute(
            _ADD,
            manifest.backup_id,
            job.project_id,
            job.job_id,
            dump.dump_fence,
            manifest.type,
            dump.format.value,
            dump.compression.value,
            dump.encryption.method if dump.encryption else None,
            dump.stored.size_bytes,
            dump.stored.sha256,
            dump.plain.size_bytes,
            dump.plain.sha256,
            len(manifest.parts),
            dump.tables,
            dump.rows,
            dump.server_version,
            dump.client_version,
            manifest.filename,
            manifest.caption,
            manifest.storage_path,
            sent.bot_id,
            sent.chat_id,
            sent.message_id,
            sent.file_id,
            sha256,
            manifest.created_at,
            dump.snapshot_at,
            manifest.expires_at,
        )

    async def add_file(self, manifest: FileManifest, *, sent: Sent | None, sha256: str | None) -> None:
        """Record a file, which this manifest, message `sent` with this hash, describes; None of an adopted
        message, which is the only part.
        """
        await self._executor.execute(
            _ADD_FILE,
            manifest.backup_id,
            manifest.project_id,
            manifest.type,
            manifest.stored.size_bytes,
            manifest.stored.sha256,
            len(manifest.parts),
            manifest.filename,
            manifest.caption,
            manifest.storage_path,
            manifest.bot_id,
            sent.chat_id if sent else manifest.parts[0].chat_id,
            sent.message_id if sent else None,
            sent.file_id if sent else None,
            sha256,
            manifest.created_at,
            manifest.expires_at,
        )

    async def find(self, backup_id: UUID) -> Backup | None:
        record = await self._executor.fetchrow(_FIND, backup_id)
        return _backup(record) if record else None

    async def list(self, filters: Filters = EVERY, *, limit: int = 50) -> list[Backup]:
        """The newest first."""
        records = await self._executor.fetch(
            _LIST,
            filters.project_id,
            filters.type,
            filters.status,
            filters.since,
            filters.before,
            limit,
        )
        return [_backup(record) for record in records]

    async def statistics(self, project_id: str | None = None) -> Sequence[Statistics]:
        """A row for each project and type of which something is stored."""
        return [Statistics(**record) for record in await self._executor.fetch(_STATISTICS, project_id)]

    async def update(self, backup_id: UUID, changes: Changes) -> Backup | None:
        """None unless it is stored."""
        record = await self._executor.fetchrow(
            _UPDATE,
            backup_id,
            changes.caption,
            changes.storage_path,
            changes.never_expires,
            changes.expires_in_days,
        )
        return _backup(record) if record else None


def _backup(record: asyncpg.Record) -> Backup:
    """The set of a file has the backup's id, and that is no job's."""
    values = {column.name: record[column.name] for column in fields(Backup)}
    return Backup(**values | {"job_id": record["job_id"] if record["job_id"] != record["id"] else None})
