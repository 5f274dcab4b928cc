"""Who is calling: verifies a bearer token and says what its caller may see.

The handlers call it; together with `tokens` it is the only place that knows JWT.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.types import Options
from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat, StringConstraints, ValidationError

from shared.contracts.job import ProjectId

SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
PUBLIC_KEY_ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")

MAX_TOKEN_BYTES = 8 * 1024

#: Every code of a `TokenRefused`.
REASONS = (
    "token_missing",
    "token_scheme",
    "token_too_large",
    "token_malformed",
    "token_algorithm",
    "token_signature",
    "token_expired",
    "token_not_yet_valid",
    "token_issuer",
    "token_audience",
    "token_claim_missing",
    "token_claim_invalid",
)

PublicKey = RSAPublicKey | EllipticCurvePublicKey

#: What RFC 7518 §3.2 and §3.3 ask for, by the family of the algorithm; a curve fits or does not.
_LEAST_KEY = {
    "HS": "a JWT_SECRET of 32, 48 or 64 characters for HS256, HS384 or HS512",
    "RS": "an RSA key of 2048 bits",
}

#: The library verifies the signature; claims are judged here, where each has its own code.
_SIGNATURE_ONLY: Options = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class TokenRefused(Exception):
    """The token proves nothing; `code` is one of REASONS, the text holds nothing of the token."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Caller:
    subject: str | None
    project_id: str | None  #: None only for an operator
    is_operator: bool

    def may_use(self, project_id: str) -> bool:
        return self.is_operator or self.project_id == project_id

    @property
    def name(self) -> str:
        """Who it was, for the audit log."""
        return self.subject or (f"project:{self.project_id}" if self.project_id else "operator")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


class _Claims(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    exp: FiniteFloat
    nbf: FiniteFloat | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    sub: (
        Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)] | None
    ) = None
    roles: list[str] = []
    project_id: ProjectId | None = None


@dataclass(frozen=True, slots=True)
class TokenVerifier:
    """Accepts tokens of one key and one algorithm; what a token says of its own algorithm never chooses."""

    algorithm: str
    key: str | PublicKey = field(repr=False)
    operator_role: str
    issuer: str | None = None
    audience: str | None = None
    now: Callable[[], float] = time.time

    def caller(self, authorization: str | None) -> Caller:
        """Take the value of an Authorization header. Raises TokenRefused."""
        claims = _read(self._signed(_bearer(authorization)))
        self._check_times(claims)
        self._check_issuer(claims)
        self._check_audience(claims)
        return self._caller(claims)

    def _signed(self, token: str) -> Mapping[str, object]:
        """The claims of a token whose signature is good."""
        try:
            signed: Mapping[str, object] = jwt.decode(
                token, self.key, algorithms=[self.algorithm], options=_SIGNATURE_ONLY
            )
        except jwt.InvalidAlgorithmError as error:
            raise TokenRefused("token_algorithm", "The token is not signed the way this API asks.") from error
        except jwt.InvalidSignatureError as error:
            raise TokenRefused("token_signature", "The token's signature is wrong.") from error
        except jwt.InvalidTokenError as error:
            raise TokenRefused("token_malformed", "The bearer token is not a JSON Web Token.") from error
        return signed

    def _check_times(self, claims: _Claims) -> None:
        now = self.now()
        if claims.exp <= now:
            raise TokenRefused("token_expired", "The token has expired.")
        if claims.nbf is not None and claims.nbf > now:
            raise TokenRefused("token_not_yet_valid", "The token is not valid yet.")

    def _check_issuer(self, claims: _Claims) -> None:
        if self.issuer is None:
            return
        if claims.iss is None:
            raise _missing("iss")
        if claims.iss != self.issuer:
            raise TokenRefused("token_issuer", "The token comes from another issuer.")

    def _check_audience(self, claims: _Claims) -> None:
        """A token that names audiences is for them alone (RFC 7519 §4.1.3), also when none is configured."""
        if claims.aud is None:
            if self.audience is not None:
                raise _missing("aud")
            return
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self.audience not in audiences:
            raise TokenRefused("token_audience", "The token is meant for another audience.")

    def _caller(self, claims: _Claims) -> Caller:
        is_operator = self.operator_role in claims.roles
        if claims.project_id is None and not is_operator:
            raise _missing("project_id")
        return Caller(claims.sub, claims.project_id, is_operator)


def public_key(pem: str) -> PublicKey:
    """Raises ValueError, without a value, for anything but a public RSA or elliptic-curve key in PEM."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("must be a public key in PEM (-----BEGIN PUBLIC KEY-----)") from error
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        raise ValueError("must be an RSA or elliptic-curve key")  # noqa: TRY004 - settings print ValueErrors
    return key


def check_key(algorithm: str, key: str | PublicKey) -> None:
    """Raises ValueError, without a value, for a key that this algorithm cannot or should not use."""
    allowed = SECRET_ALGORITHMS if isinstance(key, str) else PUBLIC_KEY_ALGORITHMS
    if algorithm not in allowed:
        raise ValueError(f"must fit the kind of key: {', '.join(allowed)}")
    method = jwt.get_algorithm_by_name(algorithm)
    try:
        prepared = method.prepare_key(key)
    except (jwt.InvalidKeyError, TypeError, ValueError) as error:
        raise ValueError(f"{algorithm} cannot use this kind of key") from error
    if method.check_key_length(prepared):
        raise ValueError(f"{algorithm} needs a longer key: {_LEAST_KEY[algorithm[:2]]}")


def _bearer(authorization: str | None) -> str:
    if authorization is None:
        raise TokenRefused("token_missing", "Send a token: Authorization: Bearer <token>.")
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise TokenRefused("token_scheme", "The Authorization header must be: Bearer <token>.")
    token = token.strip()
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused("token_too_large", f"A token may have at most {MAX_TOKEN_BYTES} bytes.")
    if not token.isascii():
        raise TokenRefused("token_malformed", "The bearer token is not a JSON Web Token.")
    return token


def _read(signed: Mapping[str, object]) -> _Claims:
    try:
        return _Claims.model_validate(signed)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        claim = str(problem["loc"][0])
        if problem["type"] == "missing":
            raise _missing(claim) from error
        raise TokenRefused("token_claim_invalid", f"The token's claim {claim} is not valid.") from error


def _missing(claim: str) -> TokenRefused:
    return TokenRefused("token_claim_missing", f"The token has no claim {claim}.")
