"""Makes manifests. A dump's is made once: written to the spool before it is sent, so that every attempt at
this dump sends and records the same one.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from pydantic import ValidationError

from services.uploader import naming
from shared.contracts.backup import FileOptions
from shared.contracts.errors import DumpLost
from shared.contracts.job import Claim
from shared.contracts.manifest import (
    AnyManifest,
    Dump,
    DumpRecord,
    FileManifest,
    Manifest,
    Part,
    SentPart,
    Stream,
)
from shared.runtime.signing import NotAuthentic, Signer
from shared.storage.parts import Sent
from shared.storage.spool import Prefix


def finished_manifest(
    claim: Claim, prefix: Prefix, dump: Dump, *, parts: Sequence[SentPart], signer: Signer, bot_id: int
) -> tuple[Manifest, Part]:
    """The signed manifest in the spool, and its size and hash. Raises DumpLost when it was altered."""
    if not prefix.manifest_path.exists():
        manifest = _manifest(claim, dump, parts, bot_id)
        prefix.write_manifest(encoded(manifest, signer))
    content = prefix.manifest_path.read_bytes()
    try:
        document = json.loads(content)
        signer.verify(document)
        manifest = Manifest.model_validate(document)
    except (ValueError, ValidationError, NotAuthentic) as error:
        raise DumpLost("spool_manifest_damaged", "The manifest in the spool was altered.") from error
    return manifest, Part(index=0, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def sent_part(part: Part, sent: Sent) -> SentPart:
    return SentPart(
        **part.model_dump(),
        chat_id=sent.chat_id,
        message_id=sent.message_id,
        file_id=sent.file_id,
        file_unique_id=sent.file_unique_id,
    )


def file_manifest(
    options: FileOptions,
    *,
    backup_id: UUID,
    at: datetime,
    bot_id: int,
    filename: str,
    stored: Stream,
    parts: Sequence[SentPart],
) -> FileManifest:
    """Of a file that an operator sends or adopts at this time."""
    days = options.expires_in_days
    return FileManifest(
        backup_id=backup_id,
        type=options.type.value,
        created_at=at,
        expires_at=at + timedelta(days=days) if days else None,
        bot_id=bot_id,
        filename=filename,
        caption=options.caption,
        storage_path=options.storage_path,
        project_id=options.project_id,
        stored=stored,
        parts=tuple(parts),
    )


def encoded(manifest: AnyManifest, signer: Signer) -> bytes:
    """As it is sent, signed."""
    return json.dumps(signer.signed(manifest.model_dump(mode="json")), indent=1, ensure_ascii=False).encode()


def _manifest(claim: Claim, dump: Dump, parts: Sequence[SentPart], bot_id: int) -> Manifest:
    now = datetime.now(UTC).replace(microsecond=0)
    days = claim.options.expires_in_days
    return Manifest(
        backup_id=uuid4(),
        created_at=now,
        expires_at=now + timedelta(days=days) if days else None,
        bot_id=bot_id,
        filename=naming.whole_name(claim, dump),
        caption=claim.options.caption,
        storage_path=claim.options.storage_path,
        dump=DumpRecord.model_validate(dump.model_dump()),
        parts=tuple(parts),
    )
