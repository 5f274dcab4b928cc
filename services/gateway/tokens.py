"""Makes tokens for development; `pgferry token` calls it. In production an identity provider does."""

from datetime import datetime, timedelta

import jwt

from services.gateway.settings import TokenSettings


class CannotSign(Exception):
    """Only the public half of the key is known here."""


def issue(
    settings: TokenSettings,
    project_id: str | None,
    *,
    operator: bool = False,
    subject: str = "pgferry-development",
    lifetime: timedelta = timedelta(hours=1),
    now: datetime,
) -> str:
    """Sign a token that the gateway with these settings accepts. Raises CannotSign."""
    if settings.jwt_secret is None:
        raise CannotSign("Tokens can be made only where JWT_SECRET is set; ask your identity provider.")
    claims = {
        "sub": subject,
        "iat": now,
        "exp": now + lifetime,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "project_id": project_id,
        "roles": [settings.operator_role] if operator else None,
    }
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, settings.jwt_secret.get_secret_value(), algorithm=settings.jwt_algorithm)
