"""Sends a file that an operator chose, as it is; no job makes it. `cli.library` calls these.

A file's rows are those of a set whose id is the backup's. A set that is not recorded is given up at once, or,
if this process died, a day later by the uploader's duty.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import structlog

from services.uploader import naming
from services.uploader.cutting import Cutting, Piece, Source, copying
from services.uploader.manifest import encoded, file_manifest, sent_part
from services.uploader.patience import WAITS, patiently
from services.uploader.sender import Sender
from shared.contracts.backup import FileOptions
from shared.contracts.errors import Failure, LeaseLost, PermanentError, Unavailable
from shared.contracts.manifest import PART_SIZE_BYTES, FileManifest, Part, SentPart
from shared.runtime.signing import Signer
from shared.storage.database import Database
from shared.storage.parts import FileSet, Kind, Sent, sent_of
from shared.telegram.errors import may_be_done

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SentFile:
    """What is in the chat; without a backup id nothing is recorded, and there is no manifest."""

    backup_id: UUID | None
    filename: str
    size_bytes: int
    sha256: str
    parts: tuple[SentPart, ...]
    manifest: SentPart | None


class PostedInPart(Failure):
    """Some documents of a file that is not recorded are in the chat, and no row names them."""

    def __init__(self, error: Failure, parts: Sequence[SentPart]) -> None:
        doubt = " The next one may be there, too." if may_be_done(error) else ""
        super().__init__(error.code, f"{error.sentence} Parts of it in the chat: {len(parts)}.{doubt}")
        self.parts = tuple(parts)


@dataclass(frozen=True, slots=True)
class _Document:
    """What Telegram is given, and how it is called there."""

    part: Part
    path: Path
    filename: str
    caption: str


@dataclass(frozen=True, slots=True)
class _Label:
    """How one file's documents are called."""

    options: FileOptions
    filename: str
    at: datetime
    backup_id: UUID | None

    def part(self, piece: Piece) -> _Document:
        name = naming.file_document(self.filename, piece.part.index, piece.parts)
        what = f"part {piece.part.index + 1} of {piece.parts}"
        return _Document(piece.part, piece.path, name, self._caption(what))

    def manifest(self, part: Part, path: Path) -> _Document:
        return _Document(part, path, f"{self.filename}.manifest", self._caption("manifest"))

    def _caption(self, what: str) -> str:
        return naming.file_caption(self.options, self.at, what, backup_id=self.backup_id)


def _label(source: Source, options: FileOptions, set_id: UUID, *, is_recorded: bool) -> _Label:
    filename = naming.file_name(options.filename or source.name, set_id)
    return _Label(options, filename, datetime.now(UTC), set_id if is_recorded else None)


@dataclass(frozen=True, slots=True)
class SendFile:
    """Send a file's parts and its manifest, then record the backup."""

    database: Database
    sender: Sender
    signer: Signer
    actor: str
    part_size_bytes: int = PART_SIZE_BYTES
    waits: Sequence[float] = WAITS

    async def __call__(self, source: Source, options: FileOptions) -> SentFile:
        """Raises a Failure; an uploader deletes what was sent until then."""
        file_set = FileSet(uuid4())
        try:
            return await self._send(file_set, source, options)
        except BaseException as error:
            with suppress(Unavailable):  # the duty finds the set a day later
                async with self.database.session() as session:
                    await session.parts.give_up(file_set)
            if isinstance(error, LeaseLost):
                raise PermanentError(
                    "file_given_up", "Nothing was sent for a day, and what there was of the file is deleted."
                ) from None
            raise

    async def _send(self, file_set: FileSet, source: Source, options: FileOptions) -> SentFile:
        label = _label(source, options, file_set.job_id, is_recorded=True)
        cutting = Cutting(source, self.part_size_bytes)
        parts = await self._send_parts(file_set, cutting, label)
        manifest = file_manifest(
            options,
            backup_id=file_set.job_id,
            at=label.at,
            bot_id=self.sender.telegram.bot_id,
            filename=label.filename,
            stored=cutting.stored,
            parts=parts,
        )
        document = await self._send_manifest(file_set, manifest, label)
        await patiently(partial(self._record, manifest, document), self.waits)
        stored = manifest.stored
        return SentFile(
            file_set.job_id, label.filename, stored.size_bytes, stored.sha256, manifest.parts, document
        )

    async def _send_parts(self, file_set: FileSet, cutting: Cutting, label: _Label) -> list[SentPart]:
        async with aclosing(cutting.pieces()) as pieces:
            return [await self._send_one(file_set, Kind.PART, label.part(piece)) async for piece in pieces]

    async def _send_manifest(self, file_set: FileSet, manifest: FileManifest, label: _Label) -> SentPart:
        content = encoded(manifest, self.signer)
        part = Part(index=0, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        with copying(manifest.filename), tempfile.TemporaryDirectory(prefix="pgferry-") as folder:
            path = Path(folder, "manifest")
            await asyncio.to_thread(path.write_bytes, content)
            return await self._send_one(file_set, Kind.MANIFEST, label.manifest(part, path))

    async def _send_one(self, file_set: FileSet, kind: Kind, document: _Document) -> SentPart:
        async def attempt() -> Sent:
            async with self.database.session() as session:
                await session.parts.plan(file_set, kind, [document.part])
            return await self.sender.send(
                file_set,
                kind,
                document.part,
                path=document.path,
                filename=document.filename,
                caption=document.caption,
                given_up=asyncio.Event(),
            )

        return sent_part(document.part, await patiently(attempt, self.waits))

    async def _record(self, manifest: FileManifest, document: SentPart) -> None:
        """One transaction; when the answer to its commit was lost, it is found to be done."""
        sent = sent_of(manifest.bot_id, document)
        async with self.database.transaction() as transaction:
            if await transaction.backups.find(manifest.backup_id):
                return
            await transaction.parts.require_whole(FileSet(manifest.backup_id), len(manifest.parts) + 1)
            await transaction.backups.add_file(manifest, sent=sent, sha256=document.sha256)
            await transaction.audit.add(
                self.actor,
                "backup.send",
                project_id=manifest.project_id,
                backup_id=manifest.backup_id,
                detail={"filename": manifest.filename, "size_bytes": manifest.stored.size_bytes},
            )


@dataclass(frozen=True, slots=True)
class PostFile:
    """Send a file's parts and record nothing: neither expiry nor removal will ever know of them."""

    sender: Sender
    part_size_bytes: int = PART_SIZE_BYTES
    waits: Sequence[float] = WAITS

    async def __call__(self, source: Source, options: FileOptions) -> SentFile:
        """Raises PostedInPart; who is cancelled leaves what it has posted to the log.

        A call whose outcome nobody knows is not repeated: no row would keep the double.
        """
        label = _label(source, options, uuid4(), is_recorded=False)
        cutting, parts = Cutting(source, self.part_size_bytes), list[SentPart]()
        try:
            async with aclosing(cutting.pieces()) as pieces:
                async for piece in pieces:
                    parts.append(await self._post(label.part(piece)))
        except Failure as error:
            raise PostedInPart(error, parts) from error
        except asyncio.CancelledError:
            log.warning("stopped: in the chat without a row", parts=[part.model_dump() for part in parts])
            raise
        stored = cutting.stored
        return SentFile(None, label.filename, stored.size_bytes, stored.sha256, tuple(parts), None)

    async def _post(self, document: _Document) -> SentPart:
        call = partial(
            self.sender.post,
            document.part,
            path=document.path,
            filename=document.filename,
            caption=document.caption,
        )
        sent = await patiently(call, self.waits, may_repeat=lambda error: not may_be_done(error))
        return sent_part(document.part, sent)
