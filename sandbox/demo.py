"""`./run demo`: one export the whole way on private servers, restored from the chat and compared.

Everything runs in a temporary directory and on free loopback ports; exit 0 only if source and copy are
equal.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer

from sandbox.bot_api.process import BotApi
from sandbox.compare import Comparison, compare_schemas
from sandbox.directory import ScratchDirectory
from sandbox.narration import Narration, Step
from sandbox.postgres import PostgresServer
from sandbox.process import ChildEnded
from sandbox.rabbitmq import RabbitMqServer
from sandbox.restore import Fetched
from sandbox.stack import ROLES, Service, Stack, http_get, http_post, make_roles
from sandbox.tenants import CANARY, create_demo_tenant, create_neighbour
from shared.storage.migrate import migrate

PROJECT, SLUG, NEIGHBOUR = "acme", "acme-corp", "neighbour"
SCHEMA = f"tenant_{SLUG}"
CHAT_ID = -1001234567890
_MEGABYTE = 1_000_000
_POLL_SECONDS = 0.1
_EXPORT_SECONDS = 300
_LOG_LINES = 5

Json = dict[str, Any]


class DemoFailed(Exception):
    """Something was not as it must be; the text says what."""


@dataclass(frozen=True, slots=True)
class Options:
    megabytes: int
    real_telegram: bool


@dataclass(frozen=True, slots=True)
class Running:
    """What a person may go on with."""

    pgferry: Stack
    token: str
    job: Json
    empty_url: str
    identity_file: Path | None


def main(
    megabytes: Annotated[int, typer.Option(help="Size of the tenant as a plain dump.", min=0)] = 100,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running and print curl lines.")] = False,
    real_telegram: Annotated[
        bool,
        typer.Option(
            "--real-telegram",
            help="Use the real service, with TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID of the environment.",
        ),
    ] = False,
) -> None:
    """Export a tenant's schema into a chat, bring it back with standard tools, and compare."""
    narration = Narration()
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            running = asyncio.run(_demo(Options(megabytes, real_telegram), narration, stack))
            narration.line(f"\nSource and copy are equal. {time.monotonic() - started:.0f} s in all.")
            if keep:
                _print_lines(running, narration)
                _until_interrupted()
    except DemoFailed as error:
        narration.line(f"\nThe demo failed: {error}")
        raise typer.Exit(1) from error


async def _demo(options: Options, narration: Narration, stack: ExitStack) -> Running:
    narration.line("pgferry demo: private servers on loopback, everything in a temporary directory")
    pgferry = await _prepared(options, narration, stack)
    with narration.step("gateway, exporter and uploader are ready, each with a role of its own"):
        services = [
            pgferry.start("gateway"),
            pgferry.start("exporter"),
            pgferry.start("uploader", PGFERRY_CATALOGUE_SECONDS=60, PGFERRY_LANE_MESSAGES=20),
        ]
        for service in services:
            _wait_ready(service)
    token = _token(pgferry)
    job = await _export(pgferry, narration, token)
    fetched = _fetch(pgferry, narration, job["backup"]["id"])
    target = await _restore(pgferry, narration, fetched)
    await _compare(pgferry, target, fetched, narration)
    return Running(pgferry, token, job, target.replace("/restored", "/empty"), fetched.identity_file)


def _wait_ready(service: Service) -> None:
    try:
        service.wait_ready()
    except (ChildEnded, TimeoutError) as error:
        last = "\n".join(service.log().splitlines()[-_LOG_LINES:])
        raise DemoFailed(f"{service.name} is not ready. Its log ends with\n{last}") from error


async def _prepared(options: Options, narration: Narration, stack: ExitStack) -> Stack:
    """Servers, stand-in, control plane and tenants."""
    directory = ScratchDirectory()
    stack.callback(directory.close)
    with narration.step("PostgreSQL and RabbitMQ are up") as step:
        rabbitmq = RabbitMqServer()
        stack.callback(rabbitmq.close)
        rabbitmq.launch()
        postgres = stack.enter_context(PostgresServer())
        rabbitmq.wait_ready()
        step.says = f"PostgreSQL {await _server_version(postgres)} and RabbitMQ are up"
    pgferry = stack.enter_context(_stack_of(options, directory.path, postgres, rabbitmq, stack))
    with narration.step("tenants") as step:
        size = await _seed(pgferry, postgres, options.megabytes)
        step.says = f"tenant {SLUG} has {size / _MEGABYTE:.0f} MB in its tables; {NEIGHBOUR} lives beside it"
    return pgferry


def _stack_of(
    options: Options, directory: Path, postgres: PostgresServer, rabbitmq: RabbitMqServer, stack: ExitStack
) -> Stack:
    if options.real_telegram:
        try:
            url, token = "https://api.telegram.org", os.environ["TELEGRAM_BOT_TOKEN"]
            chat_id = int(os.environ["TELEGRAM_CHAT_ID"])
        except (KeyError, ValueError) as error:
            raise DemoFailed("--real-telegram needs TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID") from error
    else:
        token, chat_id = f"7000001:{secrets.token_urlsafe(32)}", CHAT_ID
        api = stack.enter_context(BotApi(directory / "bot-api", tokens=[token], chats=[chat_id]))
        url = api.url
    return Stack(
        directory=directory,
        database_url=postgres.url("platform", "platform", "platform"),
        amqp_url=rabbitmq.url(),
        telegram_api_url=url,
        bot_token=token,
        chat_id=chat_id,
        role_passwords={role: secrets.token_hex(8) for role in ROLES},
    )


async def _seed(pgferry: Stack, postgres: PostgresServer, megabytes: int) -> int:
    """The platform's database with two tenants; returns the bytes of the first one's tables."""
    async with _connected(postgres.url()) as superuser:
        await superuser.execute("CREATE ROLE platform LOGIN PASSWORD 'platform'")
        await superuser.execute("CREATE DATABASE platform OWNER platform")
        for database in ("restored", "empty"):
            await superuser.execute(f"CREATE DATABASE {database} OWNER platform")
    async with _connected(pgferry.database_url) as owner:
        await migrate(owner)
        await create_demo_tenant(owner, slug=SLUG, megabytes=megabytes)
        await create_neighbour(owner, slug=NEIGHBOUR)
        async with _connected(postgres.url("platform")) as superuser:
            await make_roles(superuser, pgferry.role_passwords)
        await pgferry.add_project(owner, PROJECT, slug=SLUG)
        await pgferry.add_project(owner, NEIGHBOUR, slug=NEIGHBOUR)
        size: int = await owner.fetchval(
            "SELECT sum(pg_relation_size(c.oid))::bigint FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'",
            SCHEMA,
        )
    return size


async def _export(pgferry: Stack, narration: Narration, token: str) -> Json:
    """Ask over HTTP, then follow the job; one line for the dump, one for the upload."""
    headers = {"Authorization": f"Bearer {token}"}
    with narration.step("POST /api/backup/export") as step:
        status, text = http_post(f"{pgferry.gateway_url}/api/backup/export", {"project_id": PROJECT}, headers)
        if status != 202:  # noqa: PLR2004 - HTTP's Accepted
            raise DemoFailed(f"the gateway answered {status}: {text}")
        job_id = json.loads(text)["data"]["job_id"]
        step.says = f"POST /api/backup/export answered 202: job {job_id[:8]}…"
    with narration.step("dump") as step:
        job = await _followed(pgferry, job_id, headers, step, stages={"queued", "dumping"})
        dump = job["result"]
        step.says = (
            f"{dump['rows']:,} rows of {dump['tables']} tables dumped, counted, compressed, encrypted: "
            f"{dump['bytes'] / _MEGABYTE:.1f} MB -> {dump['stored_bytes'] / _MEGABYTE:.1f} MB"
        )
    with narration.step("upload") as step:
        job = await _followed(pgferry, job_id, headers, step, stages={"dumped", "uploading"})
        step.says = f"parts and manifest are in the chat: backup {job['backup']['id'][:8]}…"
    return job


async def _followed(
    pgferry: Stack, job_id: str, headers: dict[str, str], step: Step, *, stages: set[str]
) -> Json:
    """Ask for the job until it has left these stages."""
    deadline = time.monotonic() + _EXPORT_SECONDS
    while time.monotonic() < deadline:
        status, text = http_get(f"{pgferry.gateway_url}/api/backup/jobs/{job_id}", headers)
        if status != 200:  # noqa: PLR2004 - HTTP's OK
            raise DemoFailed(f"the gateway answered {status}: {text}")
        job: Json = json.loads(text)["data"]
        if job["status"] in {"failed", "cancelled"}:
            raise DemoFailed(f"the job is {job['status']}: {job['error']}")
        if job["stage"] not in stages:
            return job
        step.show(f"{job['stage']} {json.dumps(job['progress'] or {})}")
        await asyncio.sleep(_POLL_SECONDS)
    raise DemoFailed(f"job {job_id} took longer than {_EXPORT_SECONDS} s")


def _fetch(pgferry: Stack, narration: Narration, backup_id: str) -> Fetched:
    folder = pgferry.directory / "fetched"
    with narration.step("fetch") as step:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "backups", "fetch", backup_id, "--to", str(folder)],
            env=pgferry.environment("cli"),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(done.stderr)
        parts = len(list(folder.glob("part-*")))
        step.says = f"pgferry backups fetch: the manifest and all parts ({parts}) are back, and checked"
    identity = pgferry.directory / "backup-key.txt"
    identity.touch(mode=0o600)
    identity.write_text(pgferry.keys.identity + "\n", encoding="ascii")
    return Fetched(folder, identity)


async def _restore(pgferry: Stack, narration: Narration, fetched: Fetched) -> str:
    target = pgferry.database_url.rpartition("/")[0] + "/restored"
    with narration.step("restored into an empty database by sha256sum, cat, age, zstd and psql"):
        await asyncio.to_thread(fetched.check)
        await asyncio.to_thread(fetched.restore_into, target)
    return target


async def _compare(pgferry: Stack, target: str, fetched: Fetched, narration: Narration) -> None:
    with narration.step("compare") as step:
        async with _connected(pgferry.database_url) as source, _connected(target) as copy:
            comparison = await compare_schemas(source, copy, schema=SCHEMA)
            others = await copy.fetchval(
                "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'tenant%' AND nspname <> $1", SCHEMA
            )
        if comparison.differences:
            raise DemoFailed("\n".join(comparison.differences))
        if others or await asyncio.to_thread(fetched.contains, CANARY):
            raise DemoFailed("the neighbour's data is in the backup")
        step.says = _summary(comparison)


def _summary(comparison: Comparison) -> str:
    return (
        f"compared by hash: {comparison.tables} tables, {comparison.rows:,} rows, "
        f"{comparison.sequences} sequences, {comparison.constraints} constraints, "
        f"{comparison.indexes} indexes, {comparison.views} views"
    )


def _token(pgferry: Stack) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "token", PROJECT],
        env=pgferry.environment("gateway") | {"PGFERRY_DEV": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _print_lines(running: Running, narration: Narration) -> None:
    """Lines to paste into another terminal."""
    pgferry, job = running.pgferry, running.job
    for line in (
        "\nIt keeps running; Ctrl-C ends everything. In another terminal, as a caller:\n",
        f"URL={pgferry.gateway_url}",
        f"TOKEN={running.token}",
        'curl -s -X POST "$URL/api/backup/export" -H "Authorization: Bearer $TOKEN"'
        " -H 'Content-Type: application/json' -d '{\"project_id\": \"" + PROJECT + "\"}'",
        f'curl -s "$URL/api/backup/jobs/{job["job_id"]}" -H "Authorization: Bearer $TOKEN"',
        *(
            f"curl -s http://127.0.0.1:{service.admin_port}/metrics   # {service.name}"
            for service in pgferry.services
        ),
        "\nand as an operator:\n",
        f"export PATH={Path(sys.executable).parent}:$PATH",
        f"export DATABASE_URL={pgferry.database_url}",
        f"export AMQP_URL={pgferry.amqp_url}",
        *(f"export {name}={value}" for name, value in pgferry.store_environment().items()),
        f"export TARGET_URL={running.empty_url}   # an empty database",
        "pgferry jobs list",
        f"pgferry backups fetch {job['backup']['id']} --to /tmp/pgferry-fetched-$$",
        f"# KEY_FILE in the lines it prints is {running.identity_file}",
    ):
        narration.line(line)


def _until_interrupted() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


async def _server_version(postgres: PostgresServer) -> str:
    async with _connected(postgres.url()) as connection:
        version = connection.get_server_version()
    return f"{version.major}.{version.micro}"  # asyncpg takes 15.18 for 15.0.18


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(prog_name="./run demo")
