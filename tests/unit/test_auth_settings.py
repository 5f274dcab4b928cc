"""Which settings about tokens are accepted, and that the development token fits them."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.gateway.auth import TokenRefused
from services.gateway.client_address import ClientAddresses
from services.gateway.settings import GatewaySettings, TokenSettings
from services.gateway.tokens import CannotSign, issue
from shared.runtime.settings import SettingsError, load

SECRET = "0123456789abcdef0123456789abcdef"
PEM = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def settings(patch: pytest.MonkeyPatch, **environment: str) -> TokenSettings:
    for name, value in environment.items():
        patch.setenv(name, value)
    return load(TokenSettings)


def problems(patch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        settings(patch, **environment)
    assert not [line for line in error.value.problems if SECRET[:10] in line]
    return [line.partition(":")[0] for line in error.value.problems]


def test_the_algorithm_follows_from_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """HS256 for a secret, RS256 for a public key."""
    assert settings(monkeypatch, JWT_SECRET=SECRET).jwt_algorithm == "HS256"
    monkeypatch.delenv("JWT_SECRET")
    assert settings(monkeypatch, JWT_PUBLIC_KEY=PEM).jwt_algorithm == "RS256"


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ["JWT_PUBLIC_KEY"]),
        ({"JWT_SECRET": SECRET, "JWT_PUBLIC_KEY": PEM}, ["JWT_PUBLIC_KEY"]),
        ({"JWT_SECRET": SECRET[:31]}, ["JWT_SECRET"]),
        ({"JWT_PUBLIC_KEY": SECRET}, ["JWT_PUBLIC_KEY"]),
        ({"JWT_SECRET": SECRET, "JWT_ALGORITHM": "RS256"}, ["JWT_ALGORITHM"]),
        ({"JWT_SECRET": SECRET, "JWT_ALGORITHM": "none"}, ["JWT_ALGORITHM"]),
        ({"JWT_SECRET": SECRET, "JWT_ALGORITHM": SECRET}, ["JWT_ALGORITHM"]),
        ({"JWT_SECRET": "short", "JWT_ALGORITHM": "none"}, ["JWT_SECRET", "JWT_ALGORITHM"]),
        ({"JWT_SECRET": SECRET, "JWT_ALGORITHM": "HS512"}, ["JWT_ALGORITHM"]),
        ({"JWT_PUBLIC_KEY": PEM, "JWT_ALGORITHM": "HS256"}, ["JWT_ALGORITHM"]),
        ({"JWT_PUBLIC_KEY": PEM, "JWT_ALGORITHM": "ES256"}, ["JWT_ALGORITHM"]),
        ({"JWT_SECRET": PEM}, ["JWT_SECRET"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_wrong_settings_name_what_is_wrong(
    environment: dict[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each, without the value."""
    assert problems(monkeypatch, **environment) == names


def test_secrets_are_known_to_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be redacted is listed, the password of the database too."""
    monkeypatch.setenv("JWT_SECRET", SECRET)
    monkeypatch.setenv("DATABASE_URL", "postgresql://pgferry:hunter2@127.0.0.1/x")
    monkeypatch.setenv("AMQP_URL", "amqp://127.0.0.1/")

    assert {SECRET, "hunter2"} <= set(load(GatewaySettings).secrets())


@pytest.mark.parametrize(("project_id", "operator"), [("acme", False), (None, True), ("acme", True)])
def test_a_development_token_is_accepted_by_the_same_settings(
    project_id: str | None,
    operator: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Issuer, audience and role included; it ends."""
    chosen = settings(
        monkeypatch,
        JWT_SECRET=SECRET,
        JWT_ISSUER="here",
        JWT_AUDIENCE="pgferry",
        PGFERRY_OPERATOR_ROLE="root",
    )
    now = datetime.now(UTC)

    caller = chosen.verifier().caller("Bearer " + issue(chosen, project_id, operator=operator, now=now))

    assert (caller.project_id, caller.is_operator) == (project_id, operator)
    with pytest.raises(TokenRefused, match="expired"):
        chosen.verifier().caller("Bearer " + issue(chosen, project_id, now=now - timedelta(hours=2)))


def test_no_token_is_made_where_only_the_public_key_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The identity provider makes them."""
    with pytest.raises(CannotSign):
        issue(settings(monkeypatch, JWT_PUBLIC_KEY=PEM), "acme", now=datetime.now(UTC))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", ["203.0.113.1"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", ["198.51.100.9, 203.0.113.1", "10.0.0.2"], "203.0.113.1"),
        ("10.0.0.1", ["203.0.113.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        (None, ["203.0.113.1"], "unknown"),
    ],
)
def test_a_client_is_the_nearest_address_that_is_no_trusted_proxy(
    peer: str | None, forwarded: list[str], client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody else wrote into X-Forwarded-For is not believed."""
    for name, value in {
        "JWT_SECRET": SECRET,
        "DATABASE_URL": "postgresql://127.0.0.1/x",
        "AMQP_URL": "amqp://127.0.0.1/",
        "PGFERRY_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8",
    }.items():
        monkeypatch.setenv(name, value)

    assert ClientAddresses(load(GatewaySettings).trusted_proxies).client(peer, forwarded) == client
