"""Names and captions of what is sent.

Telegram keeps 64 characters of a name's stem and 16 of its extension (tdlib, clean_filename), and 1,024
of a caption: all of these stay below.
"""

from shared.contracts.job import Claim, Compression
from shared.contracts.manifest import Dump

_LABEL_CHARACTERS = 48
_ID_DIGITS = 8
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


def _stem(claim: Claim, dump: Dump) -> str:
    return f"{_label(claim, dump)}-{_short(claim)}-{dump.dump_fence}"


def _label(claim: Claim, dump: Dump) -> str:
    return (claim.options.filename or dump.schema_name.removeprefix("tenant_"))[:_LABEL_CHARACTERS]


def _short(claim: Claim) -> str:
    return claim.job_id.hex[:_ID_DIGITS]
