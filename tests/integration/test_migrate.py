"""Migrations: from nothing, again, at once, and beside a platform's own table of projects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.contracts.errors import PermanentError
from shared.storage.database import open_database
from shared.storage.migrate import Migrated, migrate
from shared.storage.projects import slug_of
from shared.storage.requests import accept
from tests.integration.jobs_in import claim, request_of

HEAD = "0007"

#: Every table that the design names, with what later work relies on finding there.
TABLES = {
    "projects": "id slug name status created_at",
    "jobs": """
        id project_id status stage priority format compression filename caption storage_path expires_in_days
        options_hash owner fence lease_until run_after cancel_requested_at dump_attempts upload_attempts
        replay_count dump_fence dump progress backup_id error_code error_message first_failed_at
        last_failed_at command traceparent created_at started_at claimed_at dumped_at finished_at revision
    """,
    "job_requests": "request_id job_id project_id notify_email source created_at",
    "idempotency_keys": "project_id key request_hash request_id job_id created_at expires_at",
    "backups": """
        id project_id job_id dump_fence type status format compression encryption size_bytes sha256
        plain_size_bytes plain_sha256 part_count table_count row_count server_version client_version filename
        caption storage_path bot_id chat_id manifest_message_id manifest_file_id manifest_sha256 adopted
        created_at snapshot_at expires_at expiring_at deleted_at last_verified_at revision
    """,
    "backup_parts": """
        job_id dump_fence kind index status size_bytes sha256 bot_id chat_id message_id file_id
        file_unique_id send_attempts sending_at sent_at superseded_at removed_at planned_at
    """,
    "suspected_sends": """
        id job_id dump_fence kind index bot_id chat_id size_bytes sha256 last_known_message_id suspected_at
        found_message_id resolved_at sending_at
    """,
    "catalogues": """
        bot_id revision status chat_id message_id file_id sha256 entry_count reserved_at sent_at pinned_at
    """,
    "chat_moves": "chat_id new_chat_id moved_at",
    "lane_entries": """
        id bot_id chat_id state job_id owner size_bytes waiting_at opened_at ended_at lease_until closed_until
    """,
    "outbox": """
        id sequence exchange routing_key message_type content_type body headers correlation_id created_at
        run_after attempts last_error sent_at properties
    """,
    "notifications": "event_id address claimed_at lease_until attempts run_after last_error sent_at",
    "spool": "only_row marker created_at",
    "audit_log": "id at actor action project_id job_id backup_id request_id client detail",
}

_COLUMNS = """
    SELECT table_name, column_name FROM information_schema.columns
     WHERE table_schema = 'control_plane' AND table_name <> 'alembic_version'
"""


@asynccontextmanager
async def connected_to(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def columns(connection: asyncpg.Connection) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for table, column in await connection.fetch(_COLUMNS):
        found.setdefault(table, set()).add(column)
    return found


async def test_an_empty_database_gets_everything(database_url: str) -> None:
    """Every table and column of the design, from the first migration on."""
    async with connected_to(database_url) as connection:
        migrated = await migrate(connection)

        assert migrated == Migrated(before=None, after=HEAD)
        assert await columns(connection) == {table: set(names.split()) for table, names in TABLES.items()}


async def test_migrating_twice_is_fine(database_url: str) -> None:
    """The second time finds nothing to do and keeps what is there."""
    async with connected_to(database_url) as connection:
        await migrate(connection)
        await connection.execute("INSERT INTO control_plane.projects (id, slug) VALUES ('a', 'acme')")

        assert await migrate(connection) == Migrated(before=HEAD, after=HEAD)
        assert await connection.fetchval("SELECT slug FROM control_plane.projects") == "acme"


async def test_migrating_at_once_is_fine(database_url: str) -> None:
    """Two pods start at the same moment: one migrates, the other waits and finds it done."""
    async with connected_to(database_url) as first, connected_to(database_url) as second:
        migrated = await asyncio.gather(migrate(first), migrate(second))

    assert sorted(str(one.before) for one in migrated) == [HEAD, "None"]


async def test_a_migration_that_fails_leaves_nothing(database_url: str) -> None:
    """All in one transaction: after the cause is gone, the next try starts from the beginning."""
    async with connected_to(database_url) as connection:
        await connection.execute("CREATE SCHEMA control_plane CREATE TABLE audit_log (mine text)")
        with pytest.raises(asyncpg.DuplicateTableError):
            await migrate(connection)
        assert await columns(connection) == {"audit_log": {"mine"}}

        await connection.execute("DROP TABLE control_plane.audit_log")
        assert await migrate(connection) == Migrated(before=None, after=HEAD)


async def test_a_platforms_own_projects_stay_as_they_are(database_url: str) -> None:
    """A table with a uuid id and a slug is enough: it is kept, projects are found and jobs run."""
    project_id, unknown_id = uuid4(), uuid4()
    async with connected_to(database_url) as connection:
        await connection.execute(
            "CREATE SCHEMA control_plane CREATE TABLE projects (id uuid PRIMARY KEY, slug text NOT NULL)"
        )
        await connection.execute("INSERT INTO control_plane.projects VALUES ($1, 'acme')", project_id)
        await migrate(connection)
        assert (await columns(connection))["projects"] == {"id", "slug"}

    async with open_database(database_url, name="test") as database:
        accepted = await accept(database, request_of(str(project_id)))
        held = await claim(database)
        assert held is not None
        assert (held.job_id, UUID(held.project_id)) == (accepted.job.id, project_id)
        assert await slug_of(database, str(project_id)) == "acme"
        for unknown in (str(unknown_id), "no-uuid"):
            with pytest.raises(PermanentError, match="No project"):
                await slug_of(database, unknown)
