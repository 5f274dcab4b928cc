"""Signs and checks JSON documents with HMAC-SHA-256. The uploader signs, `pgferry backups fetch` checks.

`PGFERRY_SIGNING_KEY` may hold several keys: the first signs, all verify, so a key can be replaced while
documents of the old one live on. Each purpose has a key of its own, derived by HKDF (RFC 5869).
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MANIFEST = "manifest"
CATALOGUE = "catalogue"
_KEY_BYTES = 32
_KEY_ID_DIGITS = 16


class NotAuthentic(Exception):
    """The document was not signed by any of our keys, or was altered since."""


@dataclass(frozen=True, slots=True)
class Signer:
    keys: Sequence[bytes] = field(repr=False)  #: derived, the signing one first

    @classmethod
    def of(cls, secrets: Sequence[str], *, purpose: str) -> "Signer":
        return cls([_derived(secret, purpose) for secret in secrets])

    def signed(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The document with its member `signature` set."""
        unsigned = {name: value for name, value in document.items() if name != "signature"}
        key = self.keys[0]
        return {**unsigned, "signature": {"key_id": _key_id(key), "hmac_sha256": _hmac(key, unsigned)}}

    def verify(self, document: Mapping[str, Any]) -> None:
        """Raises NotAuthentic."""
        unsigned = {name: value for name, value in document.items() if name != "signature"}
        signature = document.get("signature")
        given = signature.get("hmac_sha256") if isinstance(signature, dict) else None
        if not isinstance(given, str):
            raise NotAuthentic("The document has no signature.")
        if not any(hmac.compare_digest(_hmac(key, unsigned).encode(), _bytes(given)) for key in self.keys):
            raise NotAuthentic(
                "The document was altered, or signed with a key that PGFERRY_SIGNING_KEY does not hold."
            )


def canonical(document: Mapping[str, Any]) -> bytes:
    """One byte sequence for one content: sorted names, no spaces, UTF-8."""
    return _bytes(json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def _bytes(text: str) -> bytes:
    """UTF-8, also of half a surrogate pair: a forged document may hold anything, and is just not ours."""
    return text.encode(errors="surrogatepass")


def _derived(secret: str, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=f"pgferry {purpose}".encode()).derive(
        secret.encode()
    )


def _hmac(key: bytes, document: Mapping[str, Any]) -> str:
    return hmac.new(key, canonical(document), hashlib.sha256).hexdigest()


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:_KEY_ID_DIGITS]
