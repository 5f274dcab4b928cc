"""No secret is seen anywhere: not while all goes well, and not in what is said of failures."""

import base64
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from sandbox.ports import free_port
from sandbox.stack import Service, Stack, http_get
from sandbox.tenants import create_demo_tenant
from shared.storage.database import Database
from tests.e2e import steps
from tests.e2e.steps import QUICK

#: What stands for a password that is wrong; the characters are those that URLs and files escape.
CANARY = "canary/p@ss:w%rd\\ \"'"


@dataclass(slots=True)
class Seen:
    """Texts that somebody may read, by where they were found."""

    texts: dict[str, str] = field(default_factory=dict)

    def holding(self, secret: str) -> list[str]:
        """Where this secret is, as it is or as some writer escapes it."""
        forms = {
            secret,
            quote(secret, safe=""),
            secret.replace("\\", "\\\\").replace('"', '\\"'),
            base64.b64encode(secret.encode()).decode().rstrip("="),
        }
        return [place for place, text in self.texts.items() if any(form in text for form in forms)]

    def of_processes(self) -> None:
        """Everybody's arguments; the stand-in for the Bot API is told there which tokens are good."""
        for process in Path("/proc").glob("[0-9]*"):
            self._read(f"arguments of {process.name}", process / "cmdline")
        self.texts = {place: text for place, text in self.texts.items() if "sandbox.bot_api" not in text}

    def of_child(self, pid: int) -> None:
        """Arguments and environment of a process that a service started."""
        self._read("arguments of pg_dump", Path(f"/proc/{pid}/cmdline"))
        self._read("environment of pg_dump", Path(f"/proc/{pid}/environ"))
        assert "pg_dump" in self.texts["arguments of pg_dump"]
        assert "PGPASSFILE" in self.texts["environment of pg_dump"]

    def of_service(self, service: Service) -> None:
        number = len(self.texts)
        self.texts[f"log of {service.name} {number}"] = service.log()
        for page in ("/metrics", "/readyz", "/healthz"):
            self.texts[f"{page} of {service.name} {number}"] = service.get(page)[1]

    async def of_control_plane(self, connection: asyncpg.Connection) -> None:
        """Every row of every table: jobs and their errors, messages, dead letters, the audit log."""
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'control_plane'")
        for (table,) in tables:
            rows = await connection.fetch(f"SELECT t::text FROM control_plane.{table} AS t")
            self.texts[f"table {table}"] = "\n".join(row for (row,) in rows)

    def _read(self, place: str, path: Path) -> None:
        try:
            self.texts[place] = path.read_text(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            return  # it has ended


def with_canary(url: str) -> str:
    """The URL with a password that is wrong."""
    parts = urlsplit(url)
    login = f"{parts.username}:{quote(CANARY, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}"))


def secrets_of(stack: Stack) -> Iterator[str]:
    yield from (CANARY, CANARY[:12])
    yield from (stack.bot_token, stack.bot_token.partition(":")[2])
    yield from (stack.keys.identity, stack.keys.signing_key, stack.keys.jwt_secret)
    yield from stack.role_passwords.values()
    password = urlsplit(stack.amqp_url).password
    assert password
    yield password


async def test_no_secret_is_seen_in_a_good_export_nor_in_failures(
    stack: Stack, control_plane: Database, connection: asyncpg.Connection
) -> None:
    """Logs at DEBUG, processes, pages, answers, rows, messages, errors and manifest of a whole export, of a
    refused login, of a broker and a bot that are not to be had.
    """
    seen = Seen()
    await create_demo_tenant(connection, slug="a", megabytes=10)  # long enough to be caught in the middle
    await stack.add_project(connection, "project-a", slug="a")
    good = [_start(stack, name) for name in ("gateway", "exporter", "uploader")]
    for service in good:
        service.wait_ready()
    job_id, pid = await steps.caught_dumping(stack, good[1], control_plane, "project-a")
    seen.of_child(pid)
    seen.of_processes()
    os.kill(pid, signal.SIGCONT)
    row = await steps.ended(connection, job_id)
    assert row["status"] == "completed"
    seen.texts["answer"] = str(steps.get_job(stack, "project-a", job_id))
    seen.texts["refusal"] = str(_ask_with_a_wrong_token(stack))
    _fetch(seen, stack, row["backup_id"])
    for service in good:
        seen.of_service(service)
        service.stop()

    await _fail(seen, stack, control_plane, connection)
    await seen.of_control_plane(connection)

    assert {secret: seen.holding(secret) for secret in secrets_of(stack) if seen.holding(secret)} == {}


def _start(stack: Stack, name: str, **settings: object) -> Service:
    return stack.start(name, **QUICK, PGFERRY_LOG_LEVEL="DEBUG", **settings)


def _ask_with_a_wrong_token(stack: Stack) -> tuple[int, str]:
    answer = http_get(f"{stack.gateway_url}/api/backup/jobs/none", {"Authorization": "Bearer e30.e30.e30"})
    assert answer[0] == 401
    return answer


def _fetch(seen: Seen, stack: Stack, backup_id: object) -> None:
    """What the command says, and what is to be read in the folder without a key."""
    folder = stack.directory / "fetched"
    done = steps.pgferry(stack, "backups", "fetch", str(backup_id), "--to", str(folder))
    assert done.returncode == 0, done.stderr
    seen.texts["fetch"] = done.stdout + done.stderr
    seen.texts["manifest"] = (folder / "manifest.json").read_text()


async def _fail(seen: Seen, stack: Stack, database: Database, connection: asyncpg.Connection) -> None:
    """A tenant server that refuses the login, a broker that nobody runs, an unknown bot."""
    token = f"7000001:{CANARY[:6]}-no-such-token-0123456789abcdef"
    nobody = f"amqp://{CANARY[:6]}:{quote(CANARY, safe='')}@127.0.0.1:{free_port()}/"
    bad = {
        "login_refused": _start(stack, "exporter", TENANT_DATABASE_URL=with_canary(stack.url_as("dump"))),
        "broker": _start(stack, "gateway", AMQP_URL=nobody),
        "TELEGRAM_BOT_TOKEN": _start(stack, "uploader", TELEGRAM_BOT_TOKEN=token),
    }
    await steps.ask(database, "project-a")
    for words, service in bad.items():

        async def told(service: Service = service, words: str = words) -> bool:
            return words in service.log()

        await steps.until(told, f"{service.name} tells of {words}")
        seen.of_service(service)
