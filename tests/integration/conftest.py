"""Fixtures of modules that have one database for all their tests, and of those that hold a pg_dump."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.export_plant import Gate, gate_in
from tests.integration.jobs_in import copied_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sandbox.postgres import PostgresServer


@pytest.fixture(scope="module")
async def home(postgres_server: PostgresServer, control_plane_template: str) -> AsyncIterator[str]:
    """The URL of one database for all tests of a module: each leaves it empty."""
    async with copied_database(postgres_server, control_plane_template) as url:
        yield url


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Where a pg_dump is held until the test opens it."""
    with gate_in(tmp_path) as gate:
        yield gate
