"""The use case: send a dump's parts and its manifest, then record the backup.

Called by the worker for each claim. It resumes at the first unsent part of the same dump in each chat, in all
chats at the same time; the manifest goes last, so a backup without one was never finished.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from services.uploader import naming
from services.uploader.abreast import abreast, one_ahead
from services.uploader.manifest import finished_manifest, sent_part
from services.uploader.metrics import BACKUP_BYTES
from services.uploader.sender import Sender
from shared.contracts.envelope import envelope_of
from shared.contracts.errors import DumpLost, LeaseLost
from shared.contracts.job import Claim
from shared.contracts.manifest import Dump, Manifest, Part, SentPart
from shared.contracts.messages import BackupStored
from shared.runtime.signing import Signer
from shared.runtime.spool_calls import PART_SECONDS, answered, answered_within, removed
from shared.runtime.worker import Progress
from shared.storage.database import Database
from shared.storage.parts import GIVEN_UP, Kind, PartRow, Sent
from shared.storage.spool import Prefix, Spool
from shared.telegram.errors import NotAsWritten

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    database: Database
    spool: Spool
    sender: Sender
    signer: Signer

    async def __call__(self, claim: Claim, progress: Progress) -> None:
        """Send what is not sent yet, then record. Raises a Failure, or LeaseLost."""
        try:
            await self._upload(claim, progress)
        except DumpLost:
            await answered(self.spool.probe)  # a spool that is gone has lost nothing yet
            raise
        except NotAsWritten as error:
            raise DumpLost("spool_part_damaged", error.sentence) from error

    async def _upload(self, claim: Claim, progress: Progress) -> None:
        prefix = self._prefix(claim)
        dump = await answered(prefix.read_dump)
        parts = await self._send_parts(claim, prefix, dump, progress)
        bot_id = self.sender.telegram.bot_id
        manifest, document = await answered(
            partial(finished_manifest, claim, prefix, dump, parts=parts, signer=self.signer, bot_id=bot_id)
        )
        sent = await self._send_manifest(claim, prefix, dump, document)
        progress.recording = True
        await self._record(claim, manifest, sent, document)
        await removed(partial(self.spool.remove_job, claim.job_id))
        BACKUP_BYTES.observe(dump.stored.size_bytes)
        log.info("stored", backup_id=str(manifest.backup_id), parts=len(parts))

    def _prefix(self, claim: Claim) -> Prefix:
        if claim.dump_fence is None:
            raise LeaseLost
        return self.spool.prefix(claim.job_id, claim.dump_fence)

    async def _send_parts(
        self, claim: Claim, prefix: Prefix, dump: Dump, progress: Progress
    ) -> list[SentPart]:
        async with self.database.session() as session:
            rows = await session.parts.plan(claim, Kind.PART, dump.parts)
        _require_live(rows)
        self._require_own([row.sent for row in rows if row.sent])
        progress.counts["parts"] = len(rows)
        sent = {row.part.index: sent_part(row.part, row.sent) for row in rows if row.sent}
        progress.counts["parts_sent"] = len(sent)

        async def in_chat(parts: Sequence[Part], given_up: asyncio.Event) -> None:
            async with aclosing(one_ahead(self._loaded(prefix, part) for part in parts)) as loaded:
                async for part, path in loaded:
                    receipt = await self._send_part(claim, dump, part, path, given_up)
                    sent[part.index] = sent_part(part, receipt)
                    progress.counts["parts_sent"] = len(sent)

        unsent = await self.sender.by_chat(row.part for row in rows if not row.sent)
        await abreast(partial(in_chat, parts) for parts in unsent.values())
        return [sent[row.part.index] for row in rows]

    def _require_own(self, sent: Sequence[Sent]) -> None:
        """A bot can fetch only what it sent itself, so a set is one bot's. Raises DumpLost."""
        if any(part.bot_id != self.sender.telegram.bot_id for part in sent):
            raise DumpLost("bot_changed", "Another bot sent some of the parts; they are all sent anew.")

    async def _loaded(self, prefix: Prefix, part: Part) -> tuple[Part, Path]:
        return part, await answered_within(PART_SECONDS, partial(prefix.loaded_part, part))

    async def _send_part(
        self, claim: Claim, dump: Dump, part: Part, path: Path, given_up: asyncio.Event
    ) -> Sent:
        return await self.sender.send(
            claim,
            Kind.PART,
            part,
            path=path,
            filename=naming.part_document(claim, dump, part.index),
            caption=naming.caption(claim, dump, f"part {part.index + 1} of {len(dump.parts)}"),
            given_up=given_up,
        )

    async def _send_manifest(self, claim: Claim, prefix: Prefix, dump: Dump, document: Part) -> Sent:
        async with self.database.session() as session:
            rows = await session.parts.plan(claim, Kind.MANIFEST, [document])
        _require_live(rows)
        if rows[0].sent is not None:
            if rows[0].part.sha256 != document.sha256:
                raise DumpLost("spool_manifest_lost", "The manifest that was sent is not in the spool.")
            return rows[0].sent
        return await self.sender.send(
            claim,
            Kind.MANIFEST,
            document,
            path=prefix.manifest_path,
            filename=naming.manifest_document(claim, dump),
            caption=naming.caption(claim, dump, "manifest"),
            given_up=asyncio.Event(),
        )

    async def _record(self, claim: Claim, manifest: Manifest, sent: Sent, document: Part) -> None:
        """One transaction: the backup, the job's end, the announcement."""
        dump = manifest.dump
        stored = BackupStored(
            backup_id=manifest.backup_id,
            job_id=claim.job_id,
            project_id=claim.project_id,
            size_bytes=dump.stored.size_bytes,
            sha256=dump.stored.sha256,
            parts=len(manifest.parts),
            tables=dump.tables,
            rows=dump.rows,
            stored_at=manifest.created_at,
        )
        envelope = envelope_of(
            stored, message_type=BackupStored.type, correlation_id=claim.job_id, traceparent=claim.traceparent
        )
        async with self.database.transaction() as transaction:
            await transaction.jobs.stored(claim, backup_id=manifest.backup_id)
            await transaction.backups.add(claim, manifest, sent=sent, sha256=document.sha256)
            await transaction.outbox.add(envelope)


def _require_live(rows: Sequence[PartRow]) -> None:
    """A set of which something was given up is to be deleted from the chat. Raises DumpLost."""
    if any(row.status in GIVEN_UP for row in rows):
        raise DumpLost("parts_given_up", "Parts of this dump were given up in the chat; it is made again.")
