"""One export the whole way, on real parts."""

import asyncio
import json
import subprocess
import sys
from uuid import UUID

import asyncpg
from sandbox.stack import Stack, http_get, http_post
from sandbox.tenants import create_small_tenant


async def test_an_export_goes_the_whole_way(stack: Stack, connection: asyncpg.Connection) -> None:
    await create_small_tenant(connection, slug="acme", rows=500)
    await stack.add_project(connection, "acme", slug="acme")
    services = [stack.start(name) for name in ("gateway", "exporter", "uploader")]
    for s in services:
        s.wait_ready()
    env = stack.environment("gateway") | {"PGFERRY_DEV": "1"}
    token = subprocess.run([sys.executable, "-m", "cli.main", "token", "acme"], env=env, check=True, capture_output=True, text=True).stdout.strip()
    status, text = http_post(stack.gateway_url + "/api/backup/export", {"project_id": "acme"}, {"Authorization": f"Bearer {token}"})
    print(status, text)
    job = json.loads(text)["data"]["job_id"]
    for _ in range(100):
        row = await connection.fetchrow("select status, stage, error_code, error_message from control_plane.jobs where id=$1", UUID(job))
        if row["status"] in ("completed", "failed"):
            break
        await asyncio.sleep(0.1)
    print(row)
    for s in services:
        print(s.name, s.log())
    print(stack.bot_api.messages(stack.chat_id))
    assert row["status"] == "completed"
