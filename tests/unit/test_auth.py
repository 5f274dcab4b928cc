"""Keys and algorithms a token may be signed with, and whom it stands for."""

import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from services.gateway.auth import Caller, PublicKey, TokenRefused, TokenVerifier, check_key, public_key

SECRET = "s" * 32
NOW = 1_800_000_000
CLAIMS = {"exp": NOW + 60, "project_id": "acme"}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def verifier(
    *, algorithm: str = "HS256", key: str | PublicKey = SECRET, audience: str | None = None
) -> TokenVerifier:
    return TokenVerifier(
        algorithm=algorithm, key=key, operator_role="operator", audience=audience, now=lambda: NOW
    )


def bearer(claims: dict[str, object], *, key: str | PrivateKey = SECRET, algorithm: str = "HS256") -> str:
    return "Bearer " + jwt.encode(claims, key, algorithm=algorithm)


def pem(key: PublicKey | ed25519.Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA_KEY), ("RS512", RSA_KEY), ("ES256", EC_KEY)])
def test_a_token_of_a_private_key_is_verified_with_the_public_one(algorithm: str, key: PrivateKey) -> None:
    """RS* and ES* by a PEM."""
    verified = verifier(algorithm=algorithm, key=public_key(pem(key.public_key())))

    caller = verified.caller(bearer(CLAIMS, key=key, algorithm=algorithm))

    assert caller == Caller(subject=None, project_id="acme", is_operator=False)


def test_the_scheme_is_read_in_any_case() -> None:
    """`bearer` is Bearer (RFC 9110 §11.1)."""
    assert verifier().caller(bearer(CLAIMS).replace("Bearer", "bearer")).project_id == "acme"


def test_bytes_that_are_no_text_are_no_token() -> None:
    """They come as lone surrogates from the server."""
    with pytest.raises(TokenRefused) as refused:
        verifier().caller("Bearer \udcff.\udcff.\udcff")
    assert refused.value.code == "token_malformed"


@pytest.mark.parametrize(
    ("exp", "refused"), [(NOW + 1, False), (NOW + 0.5, False), (NOW, True), (NOW - 1, True)]
)
def test_a_token_is_good_until_before_its_exp(exp: float, refused: bool) -> None:  # noqa: FBT001
    """On the second itself it has expired (RFC 7519 §4.1.4)."""
    if refused:
        with pytest.raises(TokenRefused, match="expired"):
            verifier().caller(bearer(CLAIMS | {"exp": exp}))
    else:
        verifier().caller(bearer(CLAIMS | {"exp": exp}))


def test_the_clock_is_the_machines() -> None:
    """Nothing but a test gives another."""
    machine = TokenVerifier(algorithm="HS256", key=SECRET, operator_role="operator")

    machine.caller(bearer(CLAIMS | {"exp": time.time() + 5}))
    with pytest.raises(TokenRefused, match="expired"):
        machine.caller(bearer(CLAIMS | {"exp": time.time() - 5}))


def test_one_of_several_audiences_is_enough() -> None:
    """`aud` may be a list."""
    verifier(audience="pgferry").caller(bearer(CLAIMS | {"aud": ["other", "pgferry"]}))


def test_a_token_for_an_audience_is_not_for_a_gateway_without_a_name() -> None:
    """Who does not identify itself with `aud` must refuse (RFC 7519 §4.1.3)."""
    with pytest.raises(TokenRefused) as refused:
        verifier().caller(bearer(CLAIMS | {"aud": "pgferry"}))
    assert refused.value.code == "token_audience"


def test_the_operators_role_opens_every_project() -> None:
    """Other roles open nothing."""
    operator = verifier().caller(bearer({"exp": NOW + 60, "sub": "ann", "roles": ["reader", "operator"]}))
    reader = verifier().caller(bearer(CLAIMS | {"roles": ["reader"]}))

    assert operator == Caller(subject="ann", project_id=None, is_operator=True)
    assert operator.may_use("acme")
    assert reader.may_use("acme")
    assert not reader.may_use("acme2")


def test_the_secret_does_not_show() -> None:
    """A verifier in a log or traceback keeps its key to itself."""
    assert SECRET not in repr(verifier())


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("none", SECRET),
        ("RS256", SECRET),
        ("HS384", SECRET),
        ("HS512", SECRET),
        ("HS256", pem(RSA_KEY.public_key())),
        ("HS256", RSA_KEY.public_key()),
        ("ES256", RSA_KEY.public_key()),
        ("RS256", EC_KEY.public_key()),
        ("ES384", EC_KEY.public_key()),
        ("RS256", rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()),  # noqa: S505 - weak on purpose
        ("PS256", RSA_KEY.public_key()),
    ],
)
def test_a_key_that_does_not_fit_is_refused_before_any_token(algorithm: str, key: str | PublicKey) -> None:
    """Also a weak one, and a public key given as a secret."""
    with pytest.raises(ValueError, match="key"):
        check_key(algorithm, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a secret",
        pem(RSA_KEY.public_key())[:200],
        RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        pem(ed25519.Ed25519PrivateKey.generate().public_key()),
    ],
    ids=["empty", "text", "cut", "private", "Ed25519"],
)
def test_only_a_public_rsa_or_elliptic_curve_key_is_one(text: str) -> None:
    """A private key has no place in a gateway."""
    with pytest.raises(ValueError, match="must be"):
        public_key(text)
