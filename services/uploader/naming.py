"""Names and captions of what is sent.

Telegram keeps 64 characters of a name's stem and 16 of its extension (tdlib, clean_filename), and 1,024
of a caption: all of these stay below.
"""

import re
from datetime import datetime
from pathlib import PurePath
from uuid import UUID

from shared.contracts.backup import FileOptions
from shared.contracts.job import Claim, Compression
from shared.contracts.manifest import Dump

_LABEL_CHARACTERS = 48
_ID_DIGITS = 8
_STEM_CHARACTERS = 64
_SUFFIX_CHARACTERS = 16
_COMPRESSION_SUFFIX = {Compression.ZSTD: ".zst", Compression.GZIP: ".gz", Compression.NONE: ""}


def whole_name(claim: Claim, dump: Dump) -> str:
    """Name of the whole stored stream, which says how to undo it: `acme-…-1a2b3c4d.sql.zst.age`."""
    suffix = f".{dump.format.value}{_COMPRESSION_SUFFIX[dump.compression]}"
    if dump.encryption:
        suffix += ".age"
    return f"{_label(claim, dump)}-{dump.snapshot_at:%Y%m%dT%H%M%SZ}-{_short(claim)}{suffix}"


def part_document(claim: Claim, dump: Dump, index: int) -> str:
    return f"{_stem(claim, dump)}.p{index:05d}"


def manifest_document(claim: Claim, dump: Dump) -> str:
    return f"{_stem(claim, dump)}.manifest"


def caption(claim: Claim, dump: Dump, what: str) -> str:
    """The requester's words first, then what tells this document from every other."""
    lines = [
        claim.options.caption,
        claim.options.storage_path,
        f"{dump.schema_name} · {dump.snapshot_at:%Y-%m-%d %H:%M:%S} UTC · {what}",
        f"job {claim.job_id}",
    ]
    return "\n".join(line for line in lines if line)


def file_name(name: str, set_id: UUID) -> str:
    """Name of a whole file, like no other: `app-1a2b3c4d.log`; what a shell might take for more than a
    letter becomes `_`.
    """
    plain = PurePath(re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-") or "file")
    suffix = plain.suffix if len(plain.suffix) <= _SUFFIX_CHARACTERS else ""
    longest = min(_LABEL_CHARACTERS, _STEM_CHARACTERS - len(suffix) - 1 - _ID_DIGITS)
    return f"{plain.name.removesuffix(suffix)[:longest]}-{set_id.hex[:_ID_DIGITS]}{suffix}"


def file_document(filename: str, index: int, parts: int) -> str:
    """A file that is not cut has its own name in the chat."""
    return filename if parts == 1 else f"{filename}.p{index:05d}"


def file_caption(options: FileOptions, at: datetime, what: str, *, backup_id: UUID | None) -> str:
    lines = [
        options.caption,
        options.storage_path,
        f"{options.project_id} · {options.type} · {at:%Y-%m-%d %H:%M:%S} UTC · {what}",
        f"backup {backup_id}" if backup_id else None,
    ]
    return "\n".join(line for line in lines if line)


def _stem(claim: Claim, dump: Dump) -> str:
    return f"{_label(claim, dump)}-{_short(claim)}-{dump.dump_fence}"


def _label(claim: Claim, dump: Dump) -> str:
    return (claim.options.filename or dump.schema_name.removeprefix("tenant_"))[:_LABEL_CHARACTERS]


def _short(claim: Claim) -> str:
    return claim.job_id.hex[:_ID_DIGITS]
