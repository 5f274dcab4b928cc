"""Health and metrics on a port of their own: `/healthz`, `/readyz`, `/metrics`."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from shared.runtime.process import Fatal

Ready = Mapping[str, Callable[[], bool]]
"""What must be true for this process to do its work, by name."""

#: Told, but not needed: jobs are in PostgreSQL, and messages wait there.
OPTIONAL = frozenset({"broker"})


def add_health(app: web.Application, ready: Ready) -> None:
    """`/healthz` says the process answers; `/readyz` says which dependency is missing (503)."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        checks = {name: check() for name, check in ready.items()}
        is_ready = all(there for name, there in checks.items() if name not in OPTIONAL)
        return web.json_response({"ready": is_ready, "checks": checks}, status=200 if is_ready else 503)

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)


@asynccontextmanager
async def admin_server(host: str, port: int, ready: Ready) -> AsyncIterator[None]:
    app = web.Application()
    add_health(app, ready)
    app.router.add_get("/metrics", make_aiohttp_handler())
    async with serving(app, host, port):
        yield


@asynccontextmanager
async def serving(
    app: web.Application, host: str, port: int, *, max_header_bytes: int = 8190, drain_seconds: float = 5
) -> AsyncIterator[None]:
    """Listen for the time of the block; requests in hand get `drain_seconds` to end.

    Raises Fatal when the address is taken or not ours.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=drain_seconds,
        max_field_size=max_header_bytes,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise Fatal(f"Cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}.") from error
        yield
    finally:
        await runner.cleanup()
