"""Makes a backup's manifest once: written to the spool before it is sent, so that every attempt at this
dump sends and records the same one.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from pydantic import ValidationError

from services.uploader import naming
from shared.contracts.errors import DumpLost
from shared.contracts.job import Claim
from shared.contracts.manifest import Dump, DumpRecord, Manifest, Part, SentPart
from shared.runtime.signing import NotAuthentic, Signer
from shared.storage.spool import Prefix


def finished_manifest(
    claim: Claim, prefix: Prefix, dump: Dump, *, parts: Sequence[SentPart], signer: Signer, bot_id: int
) -> tuple[Manifest, Part]:
    """The signed manifest in the spool, and its size and hash. Raises DumpLost when it was altered."""
    if not prefix.manifest_path.exists():
        manifest = _manifest(claim, dump, parts, bot_id)
        signed = signer.signed(manifest.model_dump(mode="json"))
        prefix.write_manifest(json.dumps(signed, indent=1, ensure_ascii=False).encode())
    content = prefix.manifest_path.read_bytes()
    try:
        document = json.loads(content)
        signer.verify(document)
        manifest = Manifest.model_validate(document)
    except (ValueError, ValidationError, NotAuthentic) as error:
        raise DumpLost("spool_manifest_damaged", "The manifest in the spool was altered.") from error
    return manifest, Part(index=0, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


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
