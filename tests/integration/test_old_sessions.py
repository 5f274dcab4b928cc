"""Sessions on the tenants' server whose attempt is over are ended, and no others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from services.exporter.sessions import OldSessions
from shared.contracts.errors import Unavailable
from shared.storage.cancel import cancel
from tests.integration.export_plant import Plant, plant_on
from tests.integration.jobs_in import lapse
from tests.waiting import eventually

_NAMES = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    async with plant_on(home, tmp_path, role_passwords) as plant:
        yield plant


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def open_session(stack: AsyncExitStack, url: str, name: str) -> None:
    session = await asyncpg.connect(url, server_settings={"application_name": name})
    stack.callback(session.terminate)


def duty(plant: Plant) -> OldSessions:
    return OldSessions(plant.database, plant.environment["TENANT_DATABASE_URL"], answer_seconds=30)


async def names(plant: Plant) -> set[str]:
    return {record["application_name"] for record in await plant.owner.fetch(_NAMES)}


async def gone(plant: Plant, over: set[str]) -> bool:
    return not over & await names(plant)


async def test_sessions_of_attempts_that_are_over_are_ended(plant: Plant, stack: AsyncExitStack) -> None:
    """An older fence's, an ended job's, a lapsed lease's; not a live one's, a stranger's, another user's."""
    url = plant.environment["TENANT_DATABASE_URL"]
    held, ended, lapsed = [await plant.claim(project) for project in ("one", "two", "three")]
    await plant.owner.execute("UPDATE control_plane.jobs SET fence = 7 WHERE id = $1", held.job_id)
    await lapse(plant.owner, ended.job_id)
    await cancel(plant.database, ended.job_id, actor="test")
    await lapse(plant.owner, lapsed.job_id)
    over = {f"pgferry:{held.job_id}:6", ended.application_name, lapsed.application_name}
    stay = {
        f"pgferry:{held.job_id}:7",
        f"pgferry:{held.job_id}:8",
        f"pgferry:{uuid4()}:1",
        "pgferry:strange",
        f"pgferry:{uuid4().hex}:1",
    }
    for name in over | stay:
        await open_session(stack, url, name)
    foreign = f"pgferry:{held.job_id}:5"
    await open_session(stack, plant.environment["DATABASE_URL"], foreign)

    assert await duty(plant)() == {"ended": 3}

    await eventually(partial(gone, plant, over))
    assert stay | {foreign} <= await names(plant)
    assert await duty(plant)() == {"ended": 0}


async def test_two_at_once_end_each_session_at_most_once_more(plant: Plant, stack: AsyncExitStack) -> None:
    """Ending what is ended already is no error."""
    held = await plant.claim("one")
    await lapse(plant.owner, held.job_id)
    await open_session(stack, plant.environment["TENANT_DATABASE_URL"], held.application_name)

    await asyncio.gather(*(duty(plant)() for _ in range(4)))

    await eventually(partial(gone, plant, {held.application_name}))


async def test_a_tenant_server_that_is_away_is_waited_for(plant: Plant) -> None:
    """The duty says what it waits for, without the address or the password."""
    away = OldSessions(plant.database, "postgresql://u:secret@127.0.0.1:1/x", answer_seconds=5)

    with pytest.raises(Unavailable) as caught:
        await away()

    assert caught.value.name == "tenant_database"
    assert "secret" not in str(caught.value)
