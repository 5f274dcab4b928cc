"""Rows of a backup from its manifest alone: what `pgferry catalogue rebuild` writes into a control plane.

The job stays unknown; the backup and its parts are as the uploader has left them.
"""

from dataclasses import dataclass

import asyncpg

from shared.contracts.manifest import Manifest, Part
from shared.storage.database import Database, Transaction
from shared.storage.parts import Kind, Sent

_ACTOR = "pgferry catalogue rebuild"

_PARTS = """
    INSERT INTO control_plane.backup_parts
        (job_id, dump_fence, kind, index, status, size_bytes, sha256,
         bot_id, chat_id, message_id, file_id, file_unique_id, sent_at)
    SELECT $1, $2, $3, part.index, 'sent', part.size_bytes, part.sha256,
           $4, part.chat_id, part.message_id, part.file_id, part.file_unique_id, $5
      FROM unnest($6::int[], $7::bigint[], $8::text[], $9::bigint[], $10::bigint[], $11::text[], $12::text[])
           AS part (index, size_bytes, sha256, chat_id, message_id, file_id, file_unique_id)
    ON CONFLICT (job_id, dump_fence, kind, index) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Rebuilding:
    database: Database

    async def __call__(self, manifest: Manifest, *, sent: Sent, document: Part) -> bool:
        """Record the backup whose manifest, message `sent`, has this size and hash, in one transaction.

        False when the backup, or another one of its job, is recorded already.
        """
        try:
            async with self.database.transaction() as transaction:
                dump = manifest.dump
                await transaction.backups.add(dump, manifest, sent=sent, sha256=document.sha256)
                await _add_parts(transaction, manifest, sent, document)
                await transaction.audit.add(
                    _ACTOR,
                    "backup.rebuild",
                    project_id=dump.project_id,
                    job_id=dump.job_id,
                    backup_id=manifest.backup_id,
                )
        except asyncpg.UniqueViolationError:
            return False
        return True


async def _add_parts(transaction: Transaction, manifest: Manifest, sent: Sent, document: Part) -> None:
    """The manifest is a row like the parts."""
    chats = [
        Sent(manifest.bot_id, p.chat_id, p.message_id, p.file_id, p.file_unique_id) for p in manifest.parts
    ]
    for kind, parts, places in (
        (Kind.PART, manifest.parts, chats),
        (Kind.MANIFEST, (document,), [sent]),
    ):
        await transaction.executor.execute(
            _PARTS,
            manifest.dump.job_id,
            manifest.dump.dump_fence,
            kind.value,
            manifest.bot_id,
            manifest.created_at,
            [part.index for part in parts],
            [part.size_bytes for part in parts],
            [part.sha256 for part in parts],
            [place.chat_id for place in places],
            [place.message_id for place in places],
            [place.file_id for place in places],
            [place.file_unique_id for place in places],
        )
