"""Every kind of bad request, with the exact status and code it gets."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sandbox.postgres import PostgresServer
from tests.integration.gateway_api import (
    EXPORT,
    SECRET,
    Gateway,
    control_plane,
    gateway_on,
    good_claims,
    token_for,
)

JSON = "application/json"
GOOD_BODY = {"project_id": "acme"}
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class _Absent:
    """Marks a claim or field that is left out."""


ABSENT = _Absent()


def good_authorization() -> str:
    return "Bearer " + token_for("acme")


@dataclass(frozen=True, slots=True)
class Bad:
    name: str
    status: int
    code: str
    body: bytes = json.dumps(GOOD_BODY).encode()
    authorization: Callable[[], str | None] = good_authorization
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})
    gateway: str = "secret"
    detail: tuple[str, str] | None = None  #: field and code of the one detail


def body(name: str, detail_code: str, **fields: object) -> Bad:
    """A body wrong in one field, whose name is the first of `fields`."""
    members = {**GOOD_BODY, **fields}
    present = {key: value for key, value in members.items() if value is not ABSENT}
    return Bad(
        name,
        400,
        "invalid_body",
        body=json.dumps(present).encode(),
        detail=(next(iter(fields)), detail_code),
    )


def raw(name: str, status: int, code: str, *, body: bytes, **headers: str) -> Bad:
    return Bad(name, status, code, body=body, headers=headers or {"Content-Type": JSON})


def token(name: str, code: str, *, status: int = 401, **claims: object) -> Bad:
    """A well-signed token wrong in its claims."""

    def authorization() -> str:
        members = good_claims() | {key: change(value) for key, value in claims.items()}
        present = {key: value for key, value in members.items() if value is not ABSENT}
        return "Bearer " + _signed({"alg": "HS256"}, present, SECRET.encode())

    return Bad(name, status, code, authorization=authorization)


def change(value: object) -> object:
    return value() if callable(value) else value


def header(name: str, code: str, authorization: Callable[[], str | None], *, gateway: str = "secret") -> Bad:
    return Bad(name, 401, code, authorization=authorization, gateway=gateway)


def _signed(head: object, payload: object, key: bytes) -> str:
    """A token made by hand: the library refuses to make some of the bad ones."""
    signing_input = ".".join(_base64url(json.dumps(part).encode()) for part in (head, payload))
    signature = hmac.new(key, signing_input.encode(), hashlib.sha256).digest()
    return f"{signing_input}.{_base64url(signature)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _nested(brackets: int) -> str:
    deep = _base64url(b"[" * brackets)
    return f"Bearer {deep}.{deep}.AAAA"


def _over_size() -> str:
    return "Bearer " + jwt.encode(good_claims() | {"padding": "x" * 8000}, SECRET, algorithm="HS256")


def _other_signature() -> str:
    head, payload, signature = token_for("acme").split(".")
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    return f"Bearer {head}.{payload}.{flipped}"


TABLE = [
    body("no project", "missing", project_id=ABSENT),
    body("project is a number", "string_type", project_id=7),
    body("project is null", "string_type", project_id=None),
    body("project is empty", "string_pattern_mismatch", project_id=""),
    body("project is too long", "string_pattern_mismatch", project_id="p" * 65),
    body("project traverses", "string_pattern_mismatch", project_id="../acme-project"),
    body("project ends in a newline", "string_pattern_mismatch", project_id="acme-project\n"),
    body("project with a quote", "string_pattern_mismatch", project_id='acme"; DROP TABLE x; --'),
    body("project is not ASCII", "string_pattern_mismatch", project_id="acmé-project"),
    body("format is unknown", "enum", format="directory"),
    body("format is a number", "enum", format=1),
    body("format is null", "enum", format=None),
    body("format in capitals", "enum", format="SQL"),
    body("compression is unknown", "enum", compression="brotli-11"),
    body("compression is a list", "enum", compression=["zstd"]),
    body("priority is unknown", "enum", priority="immediately"),
    body("priority is a number", "enum", priority=0),
    body("e-mail without a domain", "value_error", notify_email="somebody@"),
    body("e-mail with a forbidden character", "value_error", notify_email="some(body@mail.example.com"),
    body("e-mail is a list", "string_type", notify_email=["somebody@mail.example.com"]),
    body(
        "e-mail with a header in it", "value_error", notify_email="somebody@example.com\r\nBcc: x@example.com"
    ),
    body(
        "e-mail is too long",
        "value_error",
        notify_email=f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.com",
    ),
    body("e-mail far too long", "value_error", notify_email="a" * 3000 + "@example.com"),
    body("path climbs", "value_error", storage_path="invoices/../../secrets"),
    body("path is absolute", "value_error", storage_path="/etc/passwd"),
    body("path with backslashes", "value_error", storage_path="invoices\\2026"),
    body("path with an empty segment", "value_error", storage_path="invoices//2026"),
    body("path with a control character", "value_error", storage_path="invoices/\u0007bell"),
    body("path with NUL", "value_error", storage_path="invoices/\u0000zero"),
    body("path is empty", "string_too_short", storage_path=""),
    body("path is too long", "string_too_long", storage_path="p" * 201),
    body("path is a number", "string_type", storage_path=7),
    body("caption is too long", "string_too_long", caption="c" * 513),
    body("caption with a control character", "value_error", caption="two\nlines of it"),
    body("caption with a lone surrogate", "string_unicode", caption="half \ud800 a character"),
    body("caption is an object", "string_type", caption={"text": "a caption"}),
    body("file name traverses", "string_pattern_mismatch", filename="../../passwd"),
    body("file name begins with a dot", "string_pattern_mismatch", filename=".bash_history"),
    body("file name is too long", "string_pattern_mismatch", filename="f" * 49),
    body("file name is a boolean", "string_type", filename=True),
    body("file name with a control character", "string_pattern_mismatch", filename="dump\tof\tacme"),
    body("expiry is zero", "greater_than_equal", expires_in_days=0),
    body("expiry is too far", "less_than_equal", expires_in_days=3651),
    body("expiry is text", "int_type", expires_in_days="30"),
    body("expiry is a fraction", "int_type", expires_in_days=1.5),
    body("expiry is a boolean", "int_type", expires_in_days=True),
    body("field is unknown", "extra_forbidden", chat_id="-1001234567890"),
    Bad(
        "field name with a lone surrogate",
        400,
        "invalid_body",
        body=b'{"project_id": "acme", "\\ud800": "half a character"}',
        detail=("", "string_unicode"),
    ),
    raw("no body", 400, "invalid_json", body=b""),
    raw("body is cut", 400, "invalid_json", body=b'{"project_id": "acme"'),
    raw("body is not UTF-8", 400, "invalid_json", body=b'{"project_id": "\xff"}'),
    raw("body is UTF-16", 400, "invalid_json", body='{"project_id": "acme"}'.encode("utf-16")),
    raw("key stands twice", 400, "invalid_json", body=b'{"project_id": "acme", "project_id": "other"}'),
    raw("number is not JSON", 400, "invalid_json", body=b'{"project_id": "acme", "expires_in_days": NaN}'),
    raw("number has no end", 400, "invalid_json", body=b'{"expires_in_days": ' + b"9" * 9000 + b"}"),
    raw("nesting has no end", 400, "invalid_json", body=b"[" * 16000),
    raw("body is a list", 400, "invalid_body", body=b'["acme"]'),
    raw("body is null", 400, "invalid_body", body=b"null"),
    raw("body is too large", 413, "body_too_large", body=b'{"caption": "' + b"c" * 16384 + b'"}'),
    raw(
        "body is a form",
        415,
        "unsupported_media_type",
        body=b"project_id=acme",
        **{"Content-Type": "text/plain"},
    ),
    raw(
        "body is compressed",
        415,
        "unsupported_media_type",
        body=b"\x1f\x8b not really",
        **{"Content-Type": JSON, "Content-Encoding": "gzip"},
    ),
    header("no header", "token_missing", lambda: None),
    header("not Bearer", "token_scheme", lambda: "Basic YWNtZTphY21l"),
    header("Bearer and nothing", "token_malformed", lambda: "Bearer"),
    header("not a JWT", "token_malformed", lambda: "Bearer just-some-text"),
    header("three parts of nothing", "token_malformed", lambda: "Bearer a.b.c"),
    header("token is not ASCII", "token_malformed", lambda: "Bearer é.é.é"),
    header("token nests without end", "token_malformed", lambda: _nested(3000)),
    header(
        "payload is a list",
        "token_malformed",
        lambda: "Bearer " + _signed({"alg": "HS256"}, [], SECRET.encode()),
    ),
    header("bad signature", "token_signature", _other_signature),
    header(
        "other key",
        "token_signature",
        lambda: "Bearer " + _signed({"alg": "HS256"}, good_claims(), b"k" * 32),
    ),
    header(
        "alg none", "token_algorithm", lambda: "Bearer " + jwt.encode(good_claims(), "", algorithm="none")
    ),
    header("no alg", "token_algorithm", lambda: "Bearer " + _signed({}, good_claims(), SECRET.encode())),
    header(
        "other alg of the same family",
        "token_algorithm",
        lambda: "Bearer " + jwt.encode(good_claims(), SECRET + "!" * 32, algorithm="HS512"),
    ),
    header(
        "algorithm confusion",
        "token_algorithm",
        lambda: "Bearer " + _signed({"alg": "HS256"}, good_claims(), RSA_PEM.encode()),
        gateway="public key",
    ),
    header(
        "algorithm confusion without the last newline",
        "token_algorithm",
        lambda: "Bearer " + _signed({"alg": "HS256"}, good_claims(), RSA_PEM.strip().encode()),
        gateway="public key",
    ),
    header(
        "HS256 named RS256",
        "token_signature",
        lambda: "Bearer " + _signed({"alg": "RS256"}, good_claims(), RSA_PEM.encode()),
        gateway="public key",
    ),
    header("over size", "token_too_large", _over_size),
    header("far over size", "token_too_large", lambda: "Bearer " + "x" * 16384),
    token("no exp", "token_claim_missing", exp=ABSENT),
    token("exp is past", "token_expired", exp=lambda: time.time() - 1),
    token("exp is text", "token_claim_invalid", exp="tomorrow"),
    token("exp is a number in text", "token_claim_invalid", exp="4102444800"),
    token("exp is a boolean", "token_claim_invalid", exp=True),
    token("exp is infinite", "token_claim_invalid", exp=float("inf")),
    token("nbf is in the future", "token_not_yet_valid", nbf=lambda: time.time() + 60),
    token("nbf is text", "token_claim_invalid", nbf="now"),
    token("no iss", "token_claim_missing", iss=ABSENT),
    token("wrong iss", "token_issuer", iss="https://issuer.example.org"),
    token("no aud", "token_claim_missing", aud=ABSENT),
    token("wrong aud", "token_audience", aud="somebody-else"),
    token("wrong aud in a list", "token_audience", aud=["somebody-else", "pgferry2"]),
    token("no project", "token_claim_missing", project_id=ABSENT),
    token("project is a number", "token_claim_invalid", project_id=7),
    token("project is a list", "token_claim_invalid", project_id=["acme"]),
    token("project is no id", "token_claim_invalid", project_id="acme/../other"),
    token("roles are text", "token_claim_invalid", roles="pgferry:operator"),
    token("sub with NUL", "token_claim_invalid", sub="tes\0ter"),
    token("another's project", "project_forbidden", status=403, project_id="another-project"),
]


@pytest_asyncio.fixture(scope="module")
async def gateways(postgres_server: PostgresServer) -> AsyncIterator[Mapping[str, Gateway]]:
    """One that knows a secret, one that knows a public key; all these requests leave them as they were."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(control_plane(postgres_server))
        yield {
            "secret": await stack.enter_async_context(gateway_on(url)),
            "public key": await stack.enter_async_context(
                gateway_on(url, JWT_SECRET=None, JWT_PUBLIC_KEY=RSA_PEM)
            ),
        }


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: f"{bad.name}: {bad.code}")
async def test_bad_input_is_refused(bad: Bad, gateways: Mapping[str, Gateway]) -> None:
    """The status and code are exact, nothing that was sent comes back, and nothing is stored."""
    authorization = bad.authorization()
    headers = dict(bad.headers) | ({"Authorization": authorization} if authorization else {})

    answer = await gateways[bad.gateway].call("POST", EXPORT, data=bad.body, headers=headers)

    assert (answer.status, answer.error["code"]) == (bad.status, bad.code)
    assert _details(answer.error["details"]) == ([bad.detail] if bad.detail else _of_whole(bad.code))
    assert answer.headers.get("WWW-Authenticate") == _challenge(bad)
    assert not [text for text in _sent(bad, authorization) if text in answer.text]
    assert await _jobs(gateways["secret"]) == 0


def _details(details: object) -> list[tuple[str, str]]:
    assert isinstance(details, list)
    for detail in details:
        assert detail["message"]
        assert ":" not in detail["message"]  # behind it, the e-mail check quotes what was sent
    return [(detail["field"], detail["code"]) for detail in details]


def _of_whole(code: str) -> list[tuple[str, str]]:
    return [("", "model_type")] if code == "invalid_body" else []


def _challenge(bad: Bad) -> str | None:
    if bad.status != 401:
        return None
    return "Bearer" if bad.code == "token_missing" else 'Bearer error="invalid_token"'


def _sent(bad: Bad, authorization: str | None) -> list[str]:
    """Every text value of the request that is long enough to be recognised."""
    texts = [part for part in (authorization or "").split() if part != "Bearer"]
    try:
        members = json.loads(bad.body)
    except (ValueError, RecursionError):
        members = None
    if isinstance(members, dict):
        texts += [value for value in members.values() if isinstance(value, str)]
        texts += [part for value in texts for part in value.split("@")]
    return [text for text in texts if len(text) >= 8]


async def _jobs(gateway: Gateway) -> object:
    async with gateway.database.session() as session:
        return await session.executor.fetchval("SELECT count(*) FROM control_plane.jobs")
