"""A whole pgferry on private parts: its services as separate processes with unprivileged roles.

The demo and the end-to-end tests start one; servers and stand-in are given to it, processes it ends.
"""

import json
import os
import secrets
import signal
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pyrage

from sandbox.ports import free_port
from sandbox.process import Child, spawn, wait_until

REPOSITORY = Path(__file__).parents[1]
ROLES_SQL = REPOSITORY / "deploy" / "sql" / "roles.sql"
ROLES = ("gateway", "exporter", "uploader", "operator", "dump")
START_SECONDS = 60.0

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Keys:
    """Every secret of one stack; made new for each."""

    identity: str
    recipient: str
    signing_key: str
    jwt_secret: str

    @classmethod
    def generate(cls) -> "Keys":
        pair = pyrage.x25519.Identity.generate()
        return cls(str(pair), str(pair.to_public()), secrets.token_urlsafe(32), secrets.token_urlsafe(32))


@dataclass(slots=True)
class Service:
    """One service's process."""

    name: str
    child: Child
    admin_port: int

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page on the admin port; 0 while nobody answers."""
        return http_get(f"http://127.0.0.1:{self.admin_port}{path}")

    def wait_ready(self) -> "Service":
        def ready() -> bool:
            self.child.require_running()
            return self.get("/readyz")[0] == 200  # noqa: PLR2004 - HTTP's OK

        wait_until(ready, seconds=START_SECONDS, what=f"{self.name} is ready")
        return self

    def log(self) -> str:
        return self.child.log.read_text(errors="replace")

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.child.end(seconds=40)
        return int(self.child.process.returncode)

    def kill(self) -> None:
        """Kill -9 of this one process: what it started must notice by itself."""
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.process.wait()

    def pause(self) -> None:
        os.kill(self.child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.child.pid, signal.SIGCONT)


@dataclass(slots=True)
class Stack:
    """Where everything is, and the services that were started."""

    directory: Path
    database_url: str  #: as the owner of the control plane
    amqp_url: str
    telegram_api_url: str
    bot_token: str
    chat_id: int
    keys: Keys = field(default_factory=Keys.generate)
    role_passwords: dict[str, str] = field(default_factory=dict)
    gateway_port: int = field(default_factory=free_port)
    services: list[Service] = field(default_factory=list)

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def url_as(self, role: str) -> str:
        """The database as one of the service roles."""
        parts = urlsplit(self.database_url)
        netloc = f"pgferry_{role}:{self.role_passwords[role]}@{parts.hostname}:{parts.port}"
        return urlunsplit(parts._replace(netloc=netloc))

    def environment(self, service: str) -> dict[str, str]:
        """Everything a service of this stack is told."""
        common = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(REPOSITORY),
            "AMQP_URL": self.amqp_url,
        }
        return (
            common
            | {
                "gateway": lambda: {
                    "DATABASE_URL": self.url_as("gateway"),
                    "JWT_SECRET": self.keys.jwt_secret,
                    "PGFERRY_GATEWAY_PORT": str(self.gateway_port),
                },
                "exporter": lambda: {
                    "DATABASE_URL": self.url_as("exporter"),
                    "TENANT_DATABASE_URL": self.url_as("dump"),
                    "SPOOL_URL": self.spool.as_uri(),
                    "PGFERRY_AGE_RECIPIENTS": self.keys.recipient,
                },
                "uploader": lambda: {
                    "DATABASE_URL": self.url_as("uploader"),
                    "SPOOL_URL": self.spool.as_uri(),
                    # whoever counts a chat's documents must not find one more; `start` turns it on
                    "PGFERRY_CATALOGUE_SECONDS": "0",
                    # most stand-ins take whatever comes
                    "PGFERRY_LANE_MESSAGES": "0",
                    **self.store_environment(),
                },
                "cli": lambda: {"DATABASE_URL": self.database_url, **self.store_environment()},
            }[service]()
        )

    def store_environment(self) -> dict[str, str]:
        return {
            "TELEGRAM_API_URL": self.telegram_api_url,
            "TELEGRAM_BOT_TOKEN": self.bot_token,
            "TELEGRAM_CHAT_ID": str(self.chat_id),
            "PGFERRY_SIGNING_KEY": self.keys.signing_key,
        }

    def start(self, name: str, **settings: object) -> Service:
        """Start one service; `settings` are further environment variables. Does not wait."""
        admin_port = free_port()
        environment = self.environment(name) | {"PGFERRY_ADMIN_PORT": str(admin_port)}
        environment |= {variable: str(value) for variable, value in settings.items()}
        log = self.directory / f"{name}-{len(self.services)}.log"
        child = spawn([sys.executable, "-m", "cli.main", name], log=log, environment=environment)
        service = Service(name, child, admin_port)
        self.services.append(service)
        return service

    async def add_project(self, connection: asyncpg.Connection, project_id: str, *, slug: str) -> None:
        """Make the project known, and let the dump role read its schema."""
        await connection.execute(
            "INSERT INTO control_plane.projects (id, slug) VALUES ($1, $2)", project_id, slug
        )
        await allow_dump(connection, f"tenant_{slug}")

    def close(self) -> None:
        for service in reversed(self.services):
            if service.child.running:
                service.resume()
                service.child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def make_roles(connection: asyncpg.Connection, passwords: dict[str, str]) -> None:
    """The service roles with their rights in this database; roles are shared by a whole server."""
    await connection.execute(ROLES_SQL.read_text(encoding="utf-8"))
    for role, password in passwords.items():
        await connection.execute(f"ALTER ROLE pgferry_{role} PASSWORD '{password}'")


async def allow_dump(connection: asyncpg.Connection, schema: str) -> None:
    """Let the dump role read a tenant's schema, and nothing else."""
    quoted = '"' + schema.replace('"', '""') + '"'
    await connection.execute(f"GRANT USAGE ON SCHEMA {quoted} TO pgferry_dump")
    await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {quoted} TO pgferry_dump")
    await connection.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {quoted} TO pgferry_dump")


def http_get(url: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    return _http(urllib.request.Request(url, headers=headers or {}))  # noqa: S310 - loopback


def http_post(url: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, str]:
    request = urllib.request.Request(  # noqa: S310 - loopback
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}, method="POST"
    )
    return _http(request)


def _http(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with _OPENER.open(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
