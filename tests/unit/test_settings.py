"""Settings: where values come from, and that everything wrong is said at once without showing a value."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from cli.settings import DoctorSettings
from shared.runtime.settings import ServiceSettings, Settings, SettingsError, WorkerSettings, load
from shared.runtime.store_settings import StoreSettings

CANARY = "canary-7f3a9c"
DATABASE = f"postgresql://pgferry:{CANARY}@db/pgferry"
BROKER = f"amqp://pgferry:{CANARY}@broker/"


class Own(Settings):
    """Stands for a service's own settings."""

    token: SecretStr = Field(alias="OWN_TOKEN", min_length=10)
    count: int = Field(default=3, ge=1, alias="OWN_COUNT")
    plain: str = Field(default="without an alias")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Good settings for a worker; a test changes what it is about."""
    monkeypatch.setenv("DATABASE_URL", DATABASE)
    monkeypatch.setenv("AMQP_URL", BROKER)
    monkeypatch.setenv("OWN_TOKEN", "0123456789")
    return monkeypatch


def problems_of(settings: type[Settings]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(settings)
    assert CANARY not in str(caught.value)
    return sorted(caught.value.problems)


def secret_file(directory: Path, content: str | bytes) -> str:
    path = directory / "secret"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_values_come_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    """By their names, in capitals; what is not set has its default."""
    environment.setenv("PGFERRY_LEASE_SECONDS", "90")

    settings = load(WorkerSettings)

    assert settings.database_url == DATABASE
    assert (settings.lease_seconds, settings.heartbeat_seconds, settings.attempts) == (90, 15, 3)


def test_settings_are_frozen() -> None:
    """What was read at the start is true until the end."""
    with pytest.raises(ValueError, match="frozen"):
        load(Own).count = 4  # type: ignore[misc]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_value_may_be_in_a_file(environment: pytest.MonkeyPatch, tmp_path: Path, ending: str) -> None:
    """As container secrets are; the line's end is not part of it, inner spaces are."""
    environment.delenv("OWN_TOKEN")
    environment.setenv("OWN_TOKEN_FILE", secret_file(tmp_path, f" from a file {ending}"))

    assert load(Own).token.get_secret_value() == " from a file "


def test_a_file_beside_an_empty_variable_counts(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compose files leave variables empty rather than unset."""
    environment.setenv("OWN_TOKEN", "")
    environment.setenv("OWN_TOKEN_FILE", secret_file(tmp_path, "0123456789x"))

    assert load(Own).token.get_secret_value() == "0123456789x"


def test_a_value_in_both_places_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody could tell which one is meant."""
    environment.setenv("OWN_TOKEN_FILE", secret_file(tmp_path, CANARY))

    assert problems_of(Own) == ["OWN_TOKEN_FILE: is set beside OWN_TOKEN; set only one of them"]


def test_a_file_that_cannot_be_read_is_one_problem(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Missing, a folder, or no text: said once, not also as a missing value."""
    environment.delenv("OWN_TOKEN")
    for path, reason in [
        (tmp_path / CANARY, "FileNotFoundError"),
        (tmp_path, "IsADirectoryError"),
        (secret_file(tmp_path, b"\xff"), "UnicodeDecodeError"),
    ]:
        environment.setenv("OWN_TOKEN_FILE", str(path))
        assert problems_of(Own) == [f"OWN_TOKEN_FILE: the file cannot be read ({reason})"]


def test_a_foreign_variable_that_ends_like_a_file_is_left_alone(environment: pytest.MonkeyPatch) -> None:
    """Only our own names have a file."""
    environment.setenv("SSL_CERT_FILE", "/nowhere")

    load(Own)


def test_an_empty_variable_is_an_unset_one(environment: pytest.MonkeyPatch) -> None:
    """It has the default; without a default it is missing, and the text says that it is there but empty."""
    environment.setenv("OWN_COUNT", "")
    assert load(Own).count == 3

    environment.setenv("OWN_TOKEN", "")
    assert problems_of(Own) == ["OWN_TOKEN: is empty"]


def test_all_problems_are_said_at_once(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of every kind, one line each, none with a value."""
    environment.delenv("DATABASE_URL")
    environment.setenv("DATABASE_URL_FILE", str(tmp_path / CANARY))
    environment.setenv("AMQP_URL", f"http://user:{CANARY}@broker")
    environment.setenv("PGFERRY_LOG_LEVEL", CANARY)
    environment.setenv("PGFERRY_ATTEMPTS", CANARY)
    environment.setenv("PGFERRY_DRAIN_SECONDS", "-1")
    environment.setenv("PGFERRY_LEASE_SECONDS", "30")

    assert problems_of(WorkerSettings) == [
        "AMQP_URL: must match the pattern '^amqps?://'",
        "DATABASE_URL_FILE: the file cannot be read (FileNotFoundError)",
        "PGFERRY_ATTEMPTS: must be a whole number",
        "PGFERRY_DRAIN_SECONDS: must be at least 0",
        "PGFERRY_HEARTBEAT_SECONDS: must be at most a third of PGFERRY_LEASE_SECONDS",
        "PGFERRY_LOG_LEVEL: must match the pattern '^(DEBUG|INFO|WARNING|ERROR)$'",
    ]


@pytest.mark.parametrize(("chats", "said"), [("abc", "be a whole number"), (",", "name at least 1")])
def test_a_list_that_cannot_be_read_is_one_line(
    environment: pytest.MonkeyPatch, chats: str, said: str
) -> None:
    """Where no item can be read, nothing is said about there being too few."""
    environment.setenv("TELEGRAM_CHAT_ID", chats)

    problems = [line for line in problems_of(DoctorSettings) if "CHAT_ID" in line]

    assert problems == [f"TELEGRAM_CHAT_ID: must {said}"]


def test_missing_settings_are_named(environment: pytest.MonkeyPatch) -> None:
    """All of them."""
    for name in ("DATABASE_URL", "AMQP_URL"):
        environment.delenv(name)

    assert problems_of(ServiceSettings) == ["AMQP_URL: is not set", "DATABASE_URL: is not set"]


def test_two_heartbeats_may_fail(environment: pytest.MonkeyPatch) -> None:
    """A heartbeat of exactly a third of the lease is the longest."""
    environment.setenv("PGFERRY_LEASE_SECONDS", "30")
    environment.setenv("PGFERRY_HEARTBEAT_SECONDS", "10")
    load(WorkerSettings)

    environment.setenv("PGFERRY_HEARTBEAT_SECONDS", "10.1")
    assert problems_of(WorkerSettings) == [
        "PGFERRY_HEARTBEAT_SECONDS: must be at most a third of PGFERRY_LEASE_SECONDS"
    ]


def test_signing_keys_are_a_list_of_long_ones(environment: pytest.MonkeyPatch) -> None:
    """Separated by commas, in their order; a short one is refused."""
    new, old = 32 * "n", 40 * "o"
    environment.setenv("TELEGRAM_BOT_TOKEN", "7000001:AAE")
    environment.setenv("PGFERRY_SIGNING_KEY", f"{new}, {old}")
    assert load(StoreSettings).signing_secrets == [new, old]

    environment.setenv("PGFERRY_SIGNING_KEY", f"{new},{CANARY}")
    assert problems_of(StoreSettings) == ["PGFERRY_SIGNING_KEY: each key must have at least 32 characters"]


def test_secrets_are_known_to_the_redactor(environment: pytest.MonkeyPatch) -> None:
    """Secret fields, each of a list, and passwords inside of URLs, as written there and as meant."""
    environment.setenv("DATABASE_URL", "postgresql://user:p%40ss-1@db/pgferry")
    environment.setenv("AMQP_URL", "amqp://user:pass-2@broker/")
    environment.setenv("TELEGRAM_BOT_TOKEN", "7000001:AAE")
    environment.setenv("PGFERRY_SIGNING_KEY", f"{32 * 'n'},{32 * 'o'}")

    assert set(load(ServiceSettings).secrets()) == {"p%40ss-1", "p@ss-1", "pass-2"}
    assert set(load(StoreSettings).secrets()) == {"7000001:AAE", 32 * "n", 32 * "o"}


def test_a_password_in_a_urls_query_is_a_secret(environment: pytest.MonkeyPatch) -> None:
    """PostgreSQL takes it there as well."""
    environment.setenv("DATABASE_URL", f"postgresql://user@db/pgferry?sslmode=require&password={CANARY}%21")

    assert set(load(ServiceSettings).secrets()) == {CANARY, f"{CANARY}!", f"{CANARY}%21"}


@pytest.mark.parametrize("url", ["postgresql://[::1/pgferry", "postgresql://user:pw@[half/pgferry"])
def test_a_url_that_cannot_be_taken_apart_is_a_problem(environment: pytest.MonkeyPatch, url: str) -> None:
    """Not a traceback out of the part that looks for passwords."""
    environment.setenv("DATABASE_URL", url)

    assert problems_of(ServiceSettings) == ["DATABASE_URL: is not a URL"]


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa?ss"])
def test_a_password_that_is_not_written_for_a_url_is_refused(
    environment: pytest.MonkeyPatch, password: str
) -> None:
    """The drivers would take a piece of it for a port, and show it in their error."""
    environment.setenv("DATABASE_URL", f"postgresql://user:{password}@db/pgferry")

    assert problems_of(ServiceSettings) == [
        "DATABASE_URL: cannot be read: write special characters of user and password as %XX"
    ]


def test_several_hosts_are_a_url(environment: pytest.MonkeyPatch) -> None:
    """PostgreSQL's drivers try one after the other."""
    environment.setenv("DATABASE_URL", "postgresql://user:pw@one:5432,two:5433,three/pgferry")

    assert load(ServiceSettings).database_url.endswith("three/pgferry")
