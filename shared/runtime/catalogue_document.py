"""A catalogue as the chat has it: gzip of the signed JSON.

The uploader writes it, `pgferry catalogue` reads it.

About 250 bytes for each backup, most of them ids that nothing compresses: what a bot gets back, 20 MiB, is
enough for some 80,000 live backups.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence

from pydantic import ValidationError

from shared.contracts.catalogue import Catalogue, CatalogueEntry
from shared.runtime.signing import NotAuthentic, Signer, canonical

#: A forged document must not fill the memory before its signature is looked at.
_MAX_PLAIN_BYTES = 256 * 1024 * 1024
_GZIP = 16 + zlib.MAX_WBITS


def encoded(catalogue: Catalogue, signer: Signer) -> bytes:
    signed = signer.signed(catalogue.model_dump(mode="json"))
    return gzip.compress(json.dumps(signed, separators=(",", ":"), ensure_ascii=False).encode(), mtime=0)


def decoded(content: bytes, signer: Signer) -> Catalogue:
    """Raises NotAuthentic for whatever one of our keys did not sign as a catalogue."""
    try:
        document = json.loads(_plain(content))
        if not isinstance(document, dict):
            raise _not_a_catalogue()
        signer.verify(document)
        return Catalogue.model_validate(document)
    except (ValueError, ValidationError, zlib.error, RecursionError) as error:
        raise _not_a_catalogue() from error


def sha256_of(entries: Sequence[CatalogueEntry]) -> str:
    """Of the list itself: the same for the same backups, whenever a document of them was made."""
    listed = [entry.model_dump(mode="json") for entry in entries]
    return hashlib.sha256(canonical({"entries": listed})).hexdigest()


def _plain(content: bytes) -> bytes:
    unpacking = zlib.decompressobj(_GZIP)
    plain = unpacking.decompress(content, _MAX_PLAIN_BYTES)
    if not unpacking.eof or unpacking.unused_data:
        raise _not_a_catalogue()
    return plain


def _not_a_catalogue() -> NotAuthentic:
    return NotAuthentic("The document is no catalogue of pgferry, or was altered.")
