"""Settings are read once, from the environment or from files, and are frozen.

Composition roots call `load`; each service adds its fields to `ServiceSettings` or `WorkerSettings`.
Every variable `NAME` may instead be given as `NAME_FILE`, the path of a file that holds the value.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shared.runtime.refusals import without_echoes, words_of


def _separated(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _readable(url: str) -> str:
    """Refuse what the drivers would read otherwise than it was meant, or would show in an error."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("is not a URL") from None
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise ValueError("cannot be read: write special characters of user and password as %XX")
    if "sslpassword" in parts.query:
        raise ValueError("must not hold sslpassword: use a client key without a passphrase")
    return url


_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:/@]*)(:\d+)?")

Url = Annotated[str, AfterValidator(_readable)]

#: Put into `Annotated` with a tuple's type: `a,b` or `a b` in the environment.
Separated = (NoDecode, BeforeValidator(_separated))


class SettingsError(Exception):
    """All that is wrong with the settings, one line each; no line holds a value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _EnvironmentAndFiles(EnvSettingsSource):
    """An empty value counts as none: compose files leave variables empty rather than unset."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        values, _ = read_environment(os.environ)
        return {name: value for name, value in values.items() if value}


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *_args: object, **_sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (_EnvironmentAndFiles(settings_cls),)

    @field_validator("*")
    @classmethod
    def _is_url_if_it_looks_like_one(cls, value: object) -> object:
        try:
            list(_secrets_of(value))
        except ValueError:
            raise ValueError("is not a URL") from None
        return value

    def secrets(self) -> Iterator[str]:
        """Every value that must never be shown: what logs redact."""
        for name in type(self).model_fields:
            yield from _secrets_of(getattr(self, name))


class ServiceSettings(Settings):
    database_url: Url = Field(alias="DATABASE_URL", pattern=r"^postgres(ql)?://")
    """The control plane, directly or by session pooling; never by transaction pooling, since services
    listen."""

    amqp_url: Url = Field(alias="AMQP_URL", pattern=r"^amqps?://")
    """The broker and its vhost. A broker that is silent for three heartbeats is given up; `?heartbeat=` sets
    one, in seconds (15)."""

    log_level: str = Field(default="INFO", alias="PGFERRY_LOG_LEVEL", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")
    """DEBUG, INFO, WARNING or ERROR."""

    admin_host: str = Field(default="127.0.0.1", alias="PGFERRY_ADMIN_HOST")
    """Where health and metrics listen: without authentication, so not on a public address."""

    attempts: int = Field(default=3, ge=1, le=20, alias="PGFERRY_ATTEMPTS")
    """Attempts of one half of a job before it fails for good; the same for all processes, since each of them
    gives up the jobs of workers that died."""

    reconcile_seconds: float = Field(default=60, gt=0, le=3600, alias="PGFERRY_RECONCILE_SECONDS")
    """Between two rounds of looking for what others left over. Jobs whose lease lapsed are left to live
    workers for a quarter of it."""

    @property
    def reconcile_grace_seconds(self) -> float:
        return self.reconcile_seconds / 4


class WorkerSettings(ServiceSettings):
    lease_seconds: float = Field(default=60, gt=0, le=3600, alias="PGFERRY_LEASE_SECONDS")
    """How long a worker that died keeps its job."""

    heartbeat_seconds: float = Field(
        default=15, gt=0, alias="PGFERRY_HEARTBEAT_SECONDS", validate_default=True
    )
    """Between two renewals of the lease; at most a third of it, so that two may fail."""

    poll_seconds: float = Field(default=5, gt=0, le=60, alias="PGFERRY_POLL_SECONDS")
    """An idle slot asks this often, if nothing wakes it before."""

    drain_seconds: float = Field(default=25, ge=0, le=3600, alias="PGFERRY_DRAIN_SECONDS")
    """Time that work in hand has to finish after SIGTERM; below the container's 30 s."""

    retry_scale: float = Field(default=1, gt=0, le=10, alias="PGFERRY_RETRY_SCALE")
    """Multiplies the waits of 10 s, 60 s and 5 min between attempts; greater than 0."""

    keep_outbox_days: float = Field(default=7, gt=0, alias="PGFERRY_KEEP_OUTBOX_DAYS")
    """How long messages that were sent stay in the outbox."""

    keep_jobs_days: float = Field(default=90, gt=0, alias="PGFERRY_KEEP_JOBS_DAYS")
    """How long jobs that ended are known, with their requests: a request that comes again later is a new one.
    A job stays as long as its backup, and while parts of it are to be deleted from the chat."""

    keep_audit_days: float = Field(default=400, gt=0, alias="PGFERRY_KEEP_AUDIT_DAYS")
    """How long the audit log goes back, and the record of documents whose answer was lost."""

    @field_validator("heartbeat_seconds")
    @classmethod
    def _fits_lease(cls, value: float, info: ValidationInfo) -> float:
        if value * 3 > info.data.get("lease_seconds", math.inf):
            raise ValueError("must be at most a third of PGFERRY_LEASE_SECONDS")
        return value


AnySettings = TypeVar("AnySettings", bound=Settings)


def load(settings: type[AnySettings]) -> AnySettings:
    """Read the environment. Raises SettingsError with every problem at once."""
    values, problems = read_environment(os.environ)
    broken = {problem.split(":")[0].removesuffix("_FILE") for problem in problems}
    try:
        loaded = settings()
    except ValidationError as error:
        variables = {field: info.alias or field for field, info in settings.model_fields.items()}
        problems += [line for name, line in _lines(error, values, variables) if name not in broken]
    if problems:
        raise SettingsError(problems)
    return loaded


def read_environment(environ: Mapping[str, str]) -> tuple[dict[str, str | None], list[str]]:
    """Resolve each `NAME_FILE` to `NAME`; returns the values and what is wrong with the files."""
    values: dict[str, str | None] = dict(environ)
    problems: list[str] = []
    for variable, path in environ.items():
        name = variable.removesuffix("_FILE")
        if name == variable or name not in _known_names():
            continue
        if environ.get(name):
            problems.append(f"{variable}: is set beside {name}; set only one of them")
            continue
        try:
            values[name] = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{variable}: the file cannot be read ({type(error).__name__})")
    return values, problems


def _known_names() -> set[str]:
    """Every variable of every settings class that this process has imported."""
    known: set[str] = set()
    classes: list[type[Settings]] = [Settings]
    while classes:
        current = classes.pop()
        classes.extend(current.__subclasses__())
        known.update(field.alias for field in current.model_fields.values() if field.alias)
    return known


def _lines(
    error: ValidationError, values: Mapping[str, str | None], variables: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """One line for each problem; never the value, it may be a secret.

    `variables`: by field name, which pydantic gives where it is a default that was refused.
    """
    for problem in without_echoes(error.errors(include_input=False, include_url=False)):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        name = variables.get(name, name)
        text = words_of(problem)
        if problem["type"] == "missing":
            text = "is empty" if name in values else "is not set"
        yield name, f"{name}: {text}" if name else text


def _secrets_of(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _secrets_of(item)
    elif isinstance(value, str) and "://" in value:
        yield from _passwords_in(value)


def _passwords_in(url: str) -> Iterator[str]:
    """As written and as meant; PostgreSQL also takes one from the query. Raises ValueError."""
    parts = urlsplit(url)
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    written = [value for name, _, value in pairs if name == "password"]
    for password in [parts.password, *written]:
        if password:
            yield from {password, unquote(password)}
