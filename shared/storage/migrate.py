"""Brings `control_plane` to the newest revision. Called by `pgferry migrate` and by tests.

Alembic writes the SQL (its offline mode) and asyncpg runs it: no second database driver, several
statements in one transaction, and it works inside a running event loop.
"""

import io
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.storage.executor import Executor

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('pgferry migrate', 0))"
_TABLE_EXISTS = "SELECT to_regclass('control_plane.alembic_version') IS NOT NULL"
_CURRENT = "SELECT version_num FROM control_plane.alembic_version"


@dataclass(frozen=True, slots=True)
class Migrated:
    """The revision before (None: an empty database) and after."""

    before: str | None
    after: str


async def migrate(connection: Executor) -> Migrated:
    """Run what is missing, in one transaction; concurrent callers wait for each other."""
    head = _script().get_current_head()
    if head is None:
        raise RuntimeError("the package holds no migrations: it was built without its data files")
    async with connection.transaction():
        await connection.execute(_LOCK)
        await connection.execute("CREATE SCHEMA IF NOT EXISTS control_plane")
        before = await _current(connection)
        if before != head:
            await connection.execute(_sql(before))
    return Migrated(before, head)


async def _current(connection: Executor) -> str | None:
    if not await connection.fetchval(_TABLE_EXISTS):
        return None
    version: str | None = await connection.fetchval(_CURRENT)
    return version


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _sql(before: str | None) -> str:
    output = io.StringIO()
    command.upgrade(_config(output), f"{before or 'base'}:head", sql=True)
    return output.getvalue()
