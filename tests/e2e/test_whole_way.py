"""One export the whole way: HTTP in, chat out, and back."""

from collections.abc import Sequence

import asyncpg

from sandbox.bot_api.process import BotApi
from sandbox.bot_api.store import StoredMessage
from sandbox.stack import Stack
from sandbox.tenants import create_demo_tenant
from tests.e2e import steps


async def test_an_export_goes_into_the_chat_and_comes_back_equal(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, database_url: str
) -> None:
    """Request, dump, parts, manifest, record; then fetched, restored by standard tools and compared."""
    await create_demo_tenant(connection, slug="acme-corp", megabytes=1)
    await stack.add_project(connection, "acme", slug="acme-corp")
    services = [
        stack.start("gateway"),
        stack.start("exporter", PGFERRY_PART_SIZE_BYTES=65536),
        stack.start("uploader"),
    ]
    for service in services:
        service.wait_ready()

    job_id = steps.post_export(stack, "acme", caption="nightly", storage_path="nightly/acme")
    row = await steps.ended(connection, job_id)

    assert (row["status"], row["stage"], row["error_code"]) == ("completed", "stored", None)
    comparison = await steps.restored(
        stack, row["backup_id"], schema="tenant_acme-corp", empty_url=database_url
    )
    assert comparison.differences == ()
    await steps.require_nothing_left(stack, connection, job_id)
    job = steps.get_job(stack, "acme", job_id)
    assert job["status"] == "completed"
    assert job["backup"]["id"] == str(row["backup_id"])
    _require_true_documents(bot_api.messages(stack.chat_id), job_id.hex[:8])
    for service in services:
        _require_quiet_about_secrets(service.log(), stack)
        assert str(job_id) in service.log() or service.name == "gateway"


def _require_true_documents(messages: Sequence[StoredMessage], job: str) -> None:
    names = [message.file_name for message in messages]
    assert len(names) == len(set(names)) > 2
    assert names[-1] == f"acme-corp-{job}-1.manifest"
    assert all("nightly/acme" in (message.caption or "") for message in messages)


def _require_quiet_about_secrets(log: str, stack: Stack) -> None:
    secrets = [
        stack.bot_token,
        stack.keys.jwt_secret,
        stack.keys.signing_key,
        stack.keys.identity,
        *stack.role_passwords.values(),
    ]
    assert not [secret for secret in secrets if secret in log]
