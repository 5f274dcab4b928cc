"""Signed documents: whose they are can be told, any change is seen, and keys can be replaced."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from shared.runtime.signing import MANIFEST, NotAuthentic, Signer, canonical

NEW, OLD, FOREIGN = "new " * 8, "old " * 8, "foreign " * 4
DOCUMENT: Mapping[str, Any] = {
    "kind": "pgferry.manifest.v1",
    "caption": "Büro & Söhne \u2028 🚢",
    "size": 12_345_678_901_234_567,
    "seconds": 0.1,
    "parts": [{"index": 0, "sha256": "00"}, {"index": 1, "sha256": "01"}],
    "expires_at": None,
}


def signer(*secrets: str, purpose: str = MANIFEST) -> Signer:
    return Signer.of(secrets, purpose=purpose)


def after_travel(document: Mapping[str, Any], **layout: Any) -> dict[str, Any]:  # noqa: ANN401 - json's own
    """Written to a file and read again, in some layout."""
    found: dict[str, Any] = json.loads(json.dumps(document, **layout))
    return found


@pytest.mark.parametrize("layout", [{}, {"indent": 1, "ensure_ascii": False}, {"sort_keys": True}])
def test_what_was_signed_is_authentic(layout: dict[str, Any]) -> None:
    """However the JSON is laid out on its way; the content is as before."""
    signed = after_travel(signer(NEW).signed(DOCUMENT), **layout)

    signer(NEW).verify(signed)
    assert {name: value for name, value in signed.items() if name != "signature"} == DOCUMENT


def test_signing_again_replaces_the_signature() -> None:
    """The same document has one signature by one key."""
    once = signer(NEW).signed(DOCUMENT)

    assert signer(NEW).signed(once) == once


@pytest.mark.parametrize(
    "change",
    [
        {"caption": "Buero"},
        {"size": 12_345_678_901_234_568},
        {"seconds": 0.2},
        {"parts": [{"index": 1, "sha256": "01"}, {"index": 0, "sha256": "00"}]},
        {"expires_at": ""},
        {"added": 1},
        {"caption": "\ud800"},
    ],
)
def test_any_change_is_seen(change: dict[str, Any]) -> None:
    """A value, an order, an addition."""
    with pytest.raises(NotAuthentic):
        signer(NEW).verify({**signer(NEW).signed(DOCUMENT), **change})


def test_a_removed_member_is_seen() -> None:
    """Absent is not the same as null."""
    signed = signer(NEW).signed(DOCUMENT)
    del signed["expires_at"]

    with pytest.raises(NotAuthentic):
        signer(NEW).verify(signed)


@pytest.mark.parametrize(
    "signature",
    [None, "", {}, {"hmac_sha256": None}, {"hmac_sha256": 7}, {"hmac_sha256": ""}, {"hmac_sha256": "ä"}],
)
def test_a_document_without_a_signature_is_not_authentic(signature: object) -> None:
    """Whatever stands in its place, there is one answer."""
    with pytest.raises(NotAuthentic):
        signer(NEW).verify({**DOCUMENT, "signature": signature})
    with pytest.raises(NotAuthentic):
        signer(NEW).verify(DOCUMENT)


def test_a_foreign_key_is_not_ours() -> None:
    """Even if it claims the id of our key."""
    ours = signer(NEW).signed(DOCUMENT)
    theirs = signer(FOREIGN).signed(DOCUMENT)
    assert theirs["signature"] != ours["signature"]
    theirs["signature"]["key_id"] = ours["signature"]["key_id"]

    with pytest.raises(NotAuthentic, match="altered, or signed with a key"):
        signer(NEW, OLD).verify(theirs)


def test_a_key_can_be_replaced() -> None:
    """The first key signs, all verify: documents of the old one live on until it is taken out."""
    old = signer(OLD).signed(DOCUMENT)
    new = signer(NEW, OLD).signed(DOCUMENT)

    signer(NEW, OLD).verify(old)
    signer(NEW).verify(new)
    for verifier, document in ((signer(OLD), new), (signer(NEW), old)):
        with pytest.raises(NotAuthentic):
            verifier.verify(document)


def test_each_purpose_has_a_key_of_its_own() -> None:
    """A signed manifest cannot be passed off as another kind of document."""
    with pytest.raises(NotAuthentic):
        signer(NEW, purpose="catalogue").verify(signer(NEW).signed(DOCUMENT))


def test_the_key_id_tells_keys_apart_and_not_what_they_are() -> None:
    """It is the same each time, another for another key, and no part of the key."""
    ids = [signer(secret).signed(DOCUMENT)["signature"]["key_id"] for secret in (NEW, NEW, OLD)]

    assert ids[0] == ids[1] != ids[2]
    assert not any(bytes.fromhex(ids[0]) in key for key in signer(NEW).keys)


def test_one_content_is_one_byte_sequence() -> None:
    """Written out here, because other programs may check a manifest too."""
    assert canonical({"b": [1, 2.5, None], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.5,null]}'.encode()


def test_a_signer_does_not_show_its_keys() -> None:
    """What holds one, as a `Library` of somebody's program, may stand in a log or a traceback."""
    signer = Signer.of(["k" * 40], purpose=MANIFEST)

    assert repr(signer.keys[0]) not in repr(signer)
