"""The gateway as a process: its settings, its life, its ports."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import pytest_asyncio

from sandbox.ports import free_port
from sandbox.postgres import PostgresServer
from tests.integration.gateway_api import ENVIRONMENT, EXPORT, bearer, control_plane, token_for

ROOT = Path(__file__).parents[2]
START_SECONDS = 60


async def begun(**environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.gateway",
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_all_wrong_settings_are_printed_at_once(tmp_path: Path) -> None:
    """One line for each on standard error, without a value, and exit code 2."""
    (tmp_path / "key").write_text("-----BEGIN HALF A KEY-----")
    process = await begun(
        AMQP_URL="http://user:hunter2hunter2@broker",
        JWT_SECRET="hunter2hunter2",
        JWT_PUBLIC_KEY_FILE=str(tmp_path / "key"),
        JWT_ALGORITHM="none",
        PGFERRY_GATEWAY_PORT="hunter2hunter2",
        PGFERRY_ADMIN_PORT="0",
        PGFERRY_RATE_LIMIT="0",
        PGFERRY_TRUSTED_PROXIES="10.0.0.0/8,hunter2hunter2",
    )
    out, err = await process.communicate()
    lines = err.decode().splitlines()

    assert process.returncode == 2
    assert out == b""
    assert [line.removeprefix("pgferry gateway: ").partition(":")[0] for line in lines] == [
        "JWT_SECRET",
        "JWT_PUBLIC_KEY",
        "JWT_ALGORITHM",
        "DATABASE_URL",
        "AMQP_URL",
        "PGFERRY_GATEWAY_PORT",
        "PGFERRY_ADMIN_PORT",
        "PGFERRY_RATE_LIMIT",
        "PGFERRY_TRUSTED_PROXIES",
    ]
    assert b"hunter2" not in err
    assert b"Traceback" not in err


@dataclass(frozen=True, slots=True)
class Running:
    process: asyncio.subprocess.Process
    api: str
    admin: str
    http: aiohttp.ClientSession


@asynccontextmanager
async def running(database_url: str) -> AsyncIterator[Running]:
    """A gateway whose broker is down, ready to be asked."""
    ports = free_port(), free_port()
    process = await begun(
        **ENVIRONMENT,
        DATABASE_URL=database_url,
        PGFERRY_GATEWAY_PORT=str(ports[0]),
        PGFERRY_ADMIN_PORT=str(ports[1]),
    )
    try:
        async with aiohttp.ClientSession() as http:
            api, admin = (f"http://127.0.0.1:{port}" for port in ports)
            gateway = Running(process, api, admin, http)
            await _until_ready(gateway)
            yield gateway
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _until_ready(gateway: Running) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                async with gateway.http.get(f"{gateway.api}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                assert gateway.process.returncode is None
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module")
async def gateway(postgres_server: PostgresServer) -> AsyncIterator[Running]:
    async with control_plane(postgres_server) as url, running(url) as gateway:
        yield gateway


async def test_with_the_broker_down_requests_are_accepted_and_counted(gateway: Running) -> None:
    """202 without RabbitMQ; the metrics, on the admin port only, show it and every known reason."""
    headers = bearer(token_for("acme"))
    async with gateway.http.post(
        gateway.api + EXPORT, json={"project_id": "acme"}, headers=headers
    ) as answer:
        assert answer.status == 202
    async with gateway.http.post(gateway.api + EXPORT, json={"project_id": "acme"}) as answer:
        assert answer.status == 401
    async with gateway.http.request("BREW", gateway.api + "/coffee/17") as answer:
        assert answer.status in {400, 404}
    async with gateway.http.get(gateway.api + "/metrics") as answer:
        assert answer.status == 404

    metrics = await _metrics(gateway)

    assert metrics['pgferry_exports_accepted_total{outcome="created"}'] == 1
    assert metrics['pgferry_exports_accepted_total{outcome="coalesced"}'] == 0
    assert metrics['pgferry_http_requests_total{code="202",method="POST",route="/api/backup/export"}'] == 1
    assert metrics['pgferry_http_requests_total{code="404",method="GET",route="unknown"}'] == 1
    assert metrics['pgferry_http_request_duration_seconds_count{route="/api/backup/jobs/{job_id}"}'] == 0
    assert metrics['pgferry_auth_failures_total{reason="token_missing"}'] == 1
    assert metrics['pgferry_auth_failures_total{reason="token_expired"}'] == 0
    assert metrics["pgferry_rate_limited_total"] == 0
    assert metrics['pgferry_amqp_connected{connection="publisher"}'] == 0


async def _metrics(gateway: Running) -> Mapping[str, float]:
    async with gateway.http.get(gateway.admin + "/metrics") as response:
        lines = (await response.text()).splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


async def test_health_is_on_both_ports(gateway: Running) -> None:
    """Ready without the broker: it takes no part in answering."""
    for port in (gateway.api, gateway.admin):
        async with gateway.http.get(port + "/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        async with gateway.http.get(port + "/readyz") as answer:
            assert await answer.json() == {"ready": True, "checks": {"database": True, "broker": False}}


async def test_sigterm_ends_it_in_order(postgres_server: PostgresServer) -> None:
    """Exit code 0, nothing said in anger, and no session left at the server."""
    async with control_plane(postgres_server) as url, running(url) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        _, err = await gateway.process.communicate()
        sessions = await _sessions(url)

    assert gateway.process.returncode == 0
    assert b"Traceback" not in err
    assert sessions == 0


async def _sessions(database_url: str) -> object:
    """How many others are connected to this database."""
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
