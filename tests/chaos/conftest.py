"""The servers of a module whose seeds kill, freeze and fill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox.chaos.servers import Servers, running_servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[Servers]:
    """Servers of this module's own: they are killed."""
    async with running_servers() as servers:
        yield servers
