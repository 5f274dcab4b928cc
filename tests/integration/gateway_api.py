"""The gateway's application on a real socket and a real database, and tokens to call it with."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex

import aiohttp
import asyncpg
import jwt
import pytest

from sandbox.ports import free_port
from sandbox.postgres import PostgresServer
from services.gateway.app import MAX_HEADER_BYTES, build_app
from services.gateway.settings import GatewaySettings
from shared.runtime.admin import serving
from shared.runtime.settings import load
from shared.storage.database import Database, open_database
from shared.storage.migrate import migrate

SECRET = "a secret of the tests, long enough to be one"
ISSUER = "https://issuer.example"
AUDIENCE = "pgferry"

EXPORT = "/api/backup/export"

ENVIRONMENT = {
    "AMQP_URL": "amqp://guest:guest@127.0.0.1:1/",
    "JWT_SECRET": SECRET,
    "JWT_ISSUER": ISSUER,
    "JWT_AUDIENCE": AUDIENCE,
    "PGFERRY_RATE_LIMIT": "1000",
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str
    json: dict[str, object]

    @property
    def data(self) -> dict[str, object]:
        data = self.json["data"]
        assert isinstance(data, dict)
        return data

    @property
    def error(self) -> dict[str, object]:
        error = self.json["error"]
        assert isinstance(error, dict)
        assert set(error) == {"code", "message", "details", "request_id"}
        assert error["request_id"] == self.headers["X-Request-ID"]
        return error


@dataclass(frozen=True, slots=True)
class Gateway:
    url: str
    database: Database
    http: aiohttp.ClientSession

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        async with self.http.request(
            method, self.url + path, json=json, data=data, headers=headers
        ) as response:
            return Answer(response.status, response.headers, await response.text(), await response.json())

    async def export(
        self, body: object, *, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """POST `body` with a token of its own project, unless another is given."""
        if token is None and isinstance(body, dict):
            token = token_for(body["project_id"])
        return await self.call("POST", EXPORT, json=body, headers=bearer(token) | dict(headers or {}))

    async def job(self, job_id: object, token: str) -> Answer:
        return await self.call("GET", f"/api/backup/jobs/{job_id}", headers=bearer(token))


@asynccontextmanager
async def gateway_on(database_url: str, **environment: str | None) -> AsyncIterator[Gateway]:
    """Serve with ENVIRONMENT, changed by the arguments (None removes a variable)."""
    changed: dict[str, str | None] = {**ENVIRONMENT, "DATABASE_URL": database_url, **environment}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            if value is not None:
                patch.setenv(name, value)
        settings = load(GatewaySettings)
    port = free_port()
    async with open_database(database_url, name="test-gateway") as database:
        app = build_app(settings, database, ready={"database": lambda: True})
        async with (
            serving(app, "127.0.0.1", port, max_header_bytes=MAX_HEADER_BYTES),
            aiohttp.ClientSession() as http,
        ):
            yield Gateway(f"http://127.0.0.1:{port}", database, http)


@asynccontextmanager
async def control_plane(server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a new database with all migrations, for as long as the block."""
    name = f"test-gateway-{token_hex(6)}"
    admin = await asyncpg.connect(server.url())
    try:
        await admin.execute(f'CREATE DATABASE "{name}"')
        connection = await asyncpg.connect(server.url(name))
        await migrate(connection)
        await connection.close()
        yield server.url(name)
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close()


def good_claims(project_id: object = "acme") -> dict[str, object]:
    return {
        "sub": "tester",
        "iss": ISSUER,
        "aud": AUDIENCE,
        "project_id": project_id,
        "exp": time.time() + 600,
    }


def token_for(project_id: object) -> str:
    return jwt.encode(good_claims(project_id), SECRET, algorithm="HS256")


def operator_token() -> str:
    claims = good_claims() | {"roles": ["pgferry:operator"]}
    del claims["project_id"]
    return jwt.encode(claims, SECRET, algorithm="HS256")


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}
