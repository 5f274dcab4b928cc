"""Finished backups: `control_plane.backups`, written in the transaction that completes the job."""

from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

import asyncpg

from shared.contracts.job import Claim
from shared.contracts.manifest import DumpRecord, Manifest
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

_FIND = "SELECT * FROM control_plane.backups WHERE id = $1"

_LIST = """
    SELECT * FROM control_plane.backups
     WHERE ($1::text IS NULL OR project_id = $1)
     ORDER BY created_at DESC, id
     LIMIT $2
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
    created_at: datetime
    snapshot_at: datetime | None
    expires_at: datetime | None


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

    async def find(self, backup_id: UUID) -> Backup | None:
        record = await self._executor.fetchrow(_FIND, backup_id)
        return _backup(record) if record else None

    async def list(self, *, project_id: str | None = None, limit: int = 50) -> list[Backup]:
        """The newest first."""
        return [_backup(record) for record in await self._executor.fetch(_LIST, project_id, limit)]


def _backup(record: asyncpg.Record) -> Backup:
    return Backup(**{column.name: record[column.name] for column in fields(Backup)})
