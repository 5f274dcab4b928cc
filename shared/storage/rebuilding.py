"""Rows of a backup from its manifest alone: what `pgferry catalogue rebuild` writes into a control plane.

The job stays unknown; the backup and its parts are as the uploader has left them.
"""

from dataclasses import dataclass

import asyncpg

from shared.contracts.manifest import AnyManifest, Manifest, Part
from shared.storage.database import Database, Transaction
from shared.storage.parts import Kind, Sent, sent_of

_ACTOR = "pgferry catalogue rebuild"


@dataclass(frozen=True, slots=True)
class Rebuilding:
    database: Database

    async def __call__(self, manifest: AnyManifest, *, sent: Sent, document: Part) -> bool:
        """Record the backup whose manifest, message `sent`, has this size and hash, in one transaction.

        False when the backup, or another one of its job, is recorded already.
        """
        try:
            async with self.database.transaction() as transaction:
                await _add_backup(transaction, manifest, sent, document)
                await _add_parts(transaction, manifest, sent, document)
                await transaction.audit.add(
                    _ACTOR,
                    "backup.rebuild",
                    project_id=manifest.project_id,
                    job_id=manifest.set_id,
                    backup_id=manifest.backup_id,
                )
        except asyncpg.UniqueViolationError:
            return False
        return True


async def _add_backup(transaction: Transaction, manifest: AnyManifest, sent: Sent, document: Part) -> None:
    if isinstance(manifest, Manifest):
        await transaction.backups.add(manifest.dump, manifest, sent=sent, sha256=document.sha256)
    else:
        await transaction.backups.add_file(manifest, sent=sent, sha256=document.sha256)


async def _add_parts(transaction: Transaction, manifest: AnyManifest, sent: Sent, document: Part) -> None:
    """The manifest is a row like the parts."""
    parts = [(part, sent_of(manifest.bot_id, part)) for part in manifest.parts]
    for kind, documents in ((Kind.PART, parts), (Kind.MANIFEST, [(document, sent)])):
        await transaction.parts.add_sent(
            manifest.set_id, manifest.dump_fence, kind, documents, at=manifest.created_at
        )
