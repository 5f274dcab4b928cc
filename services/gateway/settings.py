"""What the gateway reads from its environment; `pgferry token` reads the part about tokens alone."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from services.gateway.auth import (
    PUBLIC_KEY_ALGORITHMS,
    SECRET_ALGORITHMS,
    PublicKey,
    TokenVerifier,
    check_key,
    public_key,
)
from services.gateway.client_address import Network
from shared.runtime.settings import ServiceSettings, Settings

MIN_SECRET_CHARACTERS = 32


class TokenSettings(Settings):
    jwt_secret: SecretStr | None = Field(default=None, alias="JWT_SECRET")
    """Signs tokens by HS256, HS384 or HS512; at least 32 characters."""

    jwt_public_key: str | None = Field(default=None, alias="JWT_PUBLIC_KEY", validate_default=True)
    """PEM text of the key that verifies RS* or ES* tokens. Exactly one of this and JWT_SECRET is set."""

    jwt_algorithm: str = Field(default="", alias="JWT_ALGORITHM", validate_default=True)
    """The one algorithm that is accepted; by default HS256 with a secret, RS256 with a public key."""

    jwt_issuer: str | None = Field(default=None, alias="JWT_ISSUER")
    """If set, tokens must have this `iss`."""

    jwt_audience: str | None = Field(default=None, alias="JWT_AUDIENCE")
    """If set, tokens must name it in `aud`; if not, tokens must have no `aud`."""

    operator_role: str = Field(default="pgferry:operator", alias="PGFERRY_OPERATOR_ROLE", min_length=1)
    """Callers with this text in the claim `roles` may use every project."""

    @field_validator("jwt_secret")
    @classmethod
    def _usable_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is None:
            return None
        if len(secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise ValueError(f"must have at least {MIN_SECRET_CHARACTERS} characters")
        check_key(SECRET_ALGORITHMS[0], secret.get_secret_value())
        return secret

    @field_validator("jwt_public_key")
    @classmethod
    def _exactly_one_key(cls, pem: str | None, info: ValidationInfo) -> str | None:
        # A secret that was refused is not in `data`, but it was set.
        has_secret = info.data.get("jwt_secret", "refused") is not None
        if has_secret == (pem is not None):
            raise ValueError("set exactly one of JWT_SECRET and JWT_PUBLIC_KEY")
        if pem is not None:
            public_key(pem)
        return pem

    @field_validator("jwt_algorithm")
    @classmethod
    def _fits_key(cls, algorithm: str, info: ValidationInfo) -> str:
        key = _key(info.data.get("jwt_secret"), info.data.get("jwt_public_key"))
        if key is None:  # that is wrong, too, and already said
            if algorithm not in {"", *SECRET_ALGORITHMS, *PUBLIC_KEY_ALGORITHMS}:
                raise ValueError("must be an algorithm like HS256, RS256 or ES256")
            return algorithm
        algorithm = algorithm or ("HS256" if isinstance(key, str) else "RS256")
        check_key(algorithm, key)
        return algorithm

    def verifier(self) -> TokenVerifier:
        key = _key(self.jwt_secret, self.jwt_public_key)
        assert key is not None, "validated above"  # noqa: S101 - for the type checker
        return TokenVerifier(
            algorithm=self.jwt_algorithm,
            key=key,
            operator_role=self.operator_role,
            issuer=self.jwt_issuer,
            audience=self.jwt_audience,
        )


class GatewaySettings(ServiceSettings, TokenSettings):
    host: str = Field(default="127.0.0.1", alias="PGFERRY_GATEWAY_HOST")
    """Where the API listens; TLS is a proxy's."""

    port: int = Field(default=8080, ge=1, le=65535, alias="PGFERRY_GATEWAY_PORT")
    """Of the API."""

    admin_port: int = Field(default=9101, ge=1, le=65535, alias="PGFERRY_ADMIN_PORT")
    """Where health and metrics are."""

    rate_limit: int = Field(default=10, ge=1, le=100_000, alias="PGFERRY_RATE_LIMIT")
    """Requests for an export per minute and client address, whatever becomes of them."""

    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        default=(), alias="PGFERRY_TRUSTED_PROXIES"
    )
    """Networks, comma-separated, whose X-Forwarded-For is believed; nobody's by default."""

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return tuple(ip_network(network.strip()) for network in value.split(",") if network.strip())
        except ValueError as error:
            raise ValueError("must be networks like 10.0.0.0/8, separated by commas") from error


def _key(secret: SecretStr | None, pem: str | None) -> str | PublicKey | None:
    if secret is not None:
        return secret.get_secret_value()
    return public_key(pem) if pem is not None else None
