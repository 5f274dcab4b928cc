"""Whatever happens to the tenant during a dump, a backup shows one moment of the schema that has the name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sandbox.compare import compare_schemas
from sandbox.stack import allow_dump
from sandbox.tenants import create_small_tenant
from shared.contracts.errors import TemporaryError
from tests.integration.export_plant import Gate, Plant, plant_on
from tests.integration.jobs_in import copied_database
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sandbox.postgres import PostgresServer
    from shared.contracts.errors import Failure
    from shared.contracts.job import Claim

#: Where pg_dump is held: its snapshot is taken in each case.
HOLDS = {
    "before pg_dump begins": 'read -r < "$GATE"; exec $REAL "$@"',
    "within the first table": '$REAL "$@" | { head -c 20000; read -r < "$GATE"; cat; }',
    "after the last byte": '$REAL "$@"; code=$?; read -r < "$GATE"; exit $code',
}
ROWS = 2500
"""The rest of the dump is then more than all pipes hold, so pg_dump itself waits, too."""

hold_of = pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)


@pytest.fixture(scope="module")
async def empty_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of an empty database, which whoever restores empties again."""
    async with copied_database(postgres_server, "template0") as url:
        yield url


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    """With one tenant."""
    async with plant_on(home, tmp_path, role_passwords) as plant:
        await plant.add_tenant(rows=ROWS)
        yield plant


@pytest.fixture
async def other(home: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's session."""
    connection = await asyncpg.connect(home)
    yield connection
    await connection.close()


@pytest.fixture
async def observer(home: str) -> AsyncIterator[asyncpg.Connection]:
    """Keeps seeing the tenant as it is now, without locking anything of it."""
    connection = await asyncpg.connect(home)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.fetchval("SELECT pg_current_snapshot()")
        yield connection
    await connection.close()


async def differences(plant: Plant, claim: Claim, source: asyncpg.Connection, url: str) -> tuple[str, ...]:
    """Between what `source` sees and what the claim's dump restores into this empty database."""
    plant.fetched(claim).restore_into(url)
    target = await asyncpg.connect(url)
    comparison = await compare_schemas(source, target, schema="tenant_acme")
    await target.execute("DROP SCHEMA tenant_acme CASCADE")
    await target.close()
    return comparison.differences


@hold_of
async def test_writers_go_on_and_the_backup_shows_the_moment_of_its_snapshot(
    plant: Plant,
    gate: Gate,
    observer: asyncpg.Connection,
    other: asyncpg.Connection,
    empty_url: str,
    hold: str,
) -> None:
    """Rows come, change and go in every table, and a TRUNCATE that does not wait fails."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(plant.attempt(claim, **plant.pg_dump(hold, gate=gate)))
        await gate.reached()
        await other.execute(
            """
            INSERT INTO tenant_acme.customers SELECT n, 'late' FROM generate_series(100000, 100050) n;
            INSERT INTO tenant_acme.orders (customer_id, amount) SELECT 100000, 1 FROM generate_series(1, 50);
            UPDATE tenant_acme.notes SET body = 'changed';
            DELETE FROM tenant_acme.orders WHERE id <= 100;
            SET lock_timeout = '100ms'
            """
        )
        with pytest.raises(asyncpg.LockNotAvailableError):
            await other.execute("TRUNCATE tenant_acme.notes")
        gate.open()

    # Sequences know no transactions: they go on with the writer.
    compared = await differences(plant, claim, observer, empty_url)
    assert [text for text in compared if not text.startswith("Sequence ")] == []
    assert plant.prefix(claim).read_dump().rows == 3 * ROWS


@pytest.mark.parametrize("hold", ["within the first table", "after the last byte"])
async def test_a_truncate_waits_for_the_end_of_the_dump(
    plant: Plant, gate: Gate, other: asyncpg.Connection, empty_url: str, hold: str
) -> None:
    """It would empty even a snapshot that was taken before it."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(plant.attempt(claim, **plant.pg_dump(HOLDS[hold], gate=gate)))
        await gate.reached()
        truncating = tasks.create_task(other.execute("TRUNCATE tenant_acme.notes, tenant_acme.orders"))
        await eventually(waiting(plant, other))
        gate.open()

    assert truncating.done()
    assert await plant.owner.fetchval("SELECT count(*) FROM tenant_acme.notes") == 0
    await plant.owner.execute("DROP SCHEMA tenant_acme CASCADE")
    await create_small_tenant(plant.owner, slug="acme", rows=ROWS)
    assert await differences(plant, claim, plant.owner, empty_url) == ()


async def test_a_truncate_that_comes_between_our_lock_and_pg_dumps_is_a_new_attempt(
    plant: Plant, gate: Gate, other: asyncpg.Connection
) -> None:
    """It waits for us, pg_dump behind it, and we for pg_dump: after the lock's time we give way."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLDS["before pg_dump begins"], gate=gate)
        attempt = tasks.create_task(plant.failure(claim, PGFERRY_LOCK_SECONDS="0.5", **program))
        await gate.reached()
        tasks.create_task(other.execute("TRUNCATE tenant_acme.notes"))
        await eventually(waiting(plant, other))
        gate.open()

    failure = attempt.result()
    assert isinstance(failure, TemporaryError)
    assert failure.code in {"lock_timeout", "deadlock"}
    again = await plant.put_back(claim, failure)
    await plant.attempt(again)
    assert plant.prefix(again).read_dump().rows == 2 * ROWS


def waiting(plant: Plant, session: asyncpg.Connection) -> Callable[[], Awaitable[bool]]:
    pid = session.get_server_pid()

    async def waits() -> bool:
        wait = await plant.owner.fetchval("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $1", pid)
        return bool(wait == "Lock")

    return waits


@hold_of
async def test_a_swapped_schema_ends_the_attempt_and_the_next_one_has_the_new(
    plant: Plant, gate: Gate, other: asyncpg.Connection, empty_url: str, hold: str
) -> None:
    """As a restore by renaming does: same tables, same number of rows, other content."""
    await create_small_tenant(plant.owner, slug="next", rows=ROWS)
    await plant.owner.execute("UPDATE tenant_next.notes SET body = 'of the next schema'")
    await allow_dump(plant.owner, "tenant_next")
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        attempt = tasks.create_task(plant.failure(claim, **plant.pg_dump(hold, gate=gate)))
        await gate.reached()
        await other.execute(
            """
            ALTER SCHEMA tenant_acme RENAME TO tenant_last;
            ALTER SCHEMA tenant_next RENAME TO tenant_acme
            """
        )
        gate.open()
    error = attempt.result()

    assert isinstance(error, TemporaryError)
    assert (error.code, error.sentence) == (
        "schema_changed",
        "Schema 'tenant_acme' was replaced, renamed or altered during the dump.",
    )

    again = await plant.put_back(claim, error)
    await plant.attempt(again)

    assert again.job_id == claim.job_id
    assert await differences(plant, again, plant.owner, empty_url) == ()
    assert "of the next schema" in plant.fetched(again).plain()


async def test_a_swap_is_what_is_told_even_if_the_dump_fails_by_it(
    plant: Plant, gate: Gate, other: asyncpg.Connection
) -> None:
    """The failure of pg_dump is its consequence."""
    await create_small_tenant(plant.owner, slug="next", rows=1)
    await allow_dump(plant.owner, "tenant_next")
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump('read -r < "$GATE"; exit 1', gate=gate)
        attempt = tasks.create_task(plant.failure(claim, **program))
        await gate.reached()
        await other.execute(
            """
            ALTER SCHEMA tenant_acme RENAME TO tenant_last;
            ALTER SCHEMA tenant_next RENAME TO tenant_acme
            """
        )
        gate.open()

    assert attempt.result().code == "schema_changed"
    assert isinstance(attempt.result().__cause__, TemporaryError)


async def test_a_schema_that_is_renamed_away_and_back_was_changed(
    plant: Plant, gate: Gate, other: asyncpg.Connection
) -> None:
    """Its rows may have been written by another name meanwhile."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLDS["after the last byte"], gate=gate)
        attempt = tasks.create_task(plant.failure(claim, **program))
        await gate.reached()
        await other.execute("ALTER SCHEMA tenant_acme RENAME TO away")
        await other.execute("ALTER SCHEMA away RENAME TO tenant_acme")
        gate.open()

    assert attempt.result().code == "schema_changed"


async def test_a_schema_that_is_dropped_is_missing_the_next_time(plant: Plant, gate: Gate) -> None:
    """DROP waits for the tables' locks; a rename and a drop of an empty namesake do not."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLDS["after the last byte"], gate=gate)
        attempt = tasks.create_task(plant.failure(claim, **program))
        await gate.reached()
        await plant.owner.execute("ALTER SCHEMA tenant_acme RENAME TO away")
        gate.open()

    assert attempt.result().code == "schema_changed"
    again = await plant.put_back(claim, attempt.result())
    assert (await plant.failure(again)).code == "schema_missing"


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE tenant_acme.notes",
        "ALTER TABLE tenant_acme.notes RENAME TO remarks",
        "CREATE TABLE tenant_acme.added (a int); GRANT SELECT ON tenant_acme.added TO pgferry_dump",
        "DROP TABLE tenant_acme.notes; CREATE TABLE tenant_acme.notes (body text); "
        "GRANT SELECT ON tenant_acme.notes TO pgferry_dump",
        "ALTER TABLE tenant_acme.notes SET SCHEMA public",
    ],
    ids=["dropped", "renamed", "made", "replaced", "moved"],
)
async def test_tables_that_change_between_listing_and_snapshot_are_a_new_attempt(
    plant: Plant, other: asyncpg.Connection, change: str
) -> None:
    """The locks would be on other tables than the dump's; the next attempt lists anew."""
    claim = await plant.claim()

    failure = await failure_while_locked(plant, other, claim, change)

    assert isinstance(failure, TemporaryError)
    assert failure.code == "tables_changed"
    again = await plant.put_back(claim, failure)
    await plant.attempt(again)
    tables = await plant.owner.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'tenant_acme'::regnamespace"
    )
    assert {table.name for table in plant.facts(again).tables} == {name for (name,) in tables}


async def failure_while_locked(
    plant: Plant, other: asyncpg.Connection, claim: Claim, change: str, *, locked: str = "customers"
) -> Failure:
    """The attempt has listed the tables and waits for a lock while the change is committed."""
    async with asyncio.TaskGroup() as tasks, other.transaction():
        await other.execute(f"LOCK TABLE tenant_acme.{locked} IN ACCESS EXCLUSIVE MODE")
        attempt = tasks.create_task(plant.failure(claim))
        await eventually(plant.waits_for_lock)
        await other.execute(change)
    return attempt.result()


async def test_a_deadlock_with_somebody_who_alters_tables_is_a_new_attempt(
    plant: Plant, other: asyncpg.Connection
) -> None:
    """We hold notes and wait for orders, they the other way round; whoever looks first is ended."""
    claim = await plant.claim()
    await other.execute("SET deadlock_timeout = '1min'")

    failure = await failure_while_locked(
        plant, other, claim, "ALTER TABLE tenant_acme.notes ADD more text", locked="orders"
    )

    assert isinstance(failure, TemporaryError)
    assert failure.code == "deadlock"


async def test_a_truncate_that_came_first_is_in_the_backup(plant: Plant, other: asyncpg.Connection) -> None:
    """The locks come before the snapshot: dump and count see the same, and its time is the one told."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks, other.transaction():
        await other.execute("TRUNCATE tenant_acme.notes")
        tasks.create_task(plant.attempt(claim))
        await eventually(plant.waits_for_lock)
        committing = datetime.now(UTC)

    dump = plant.prefix(claim).read_dump()
    assert dump.rows == 2 * ROWS
    assert committing < dump.snapshot_at < datetime.now(UTC)


@pytest.mark.parametrize(
    ("hold", "session"),
    [("within the first table", "COPY %"), ("before pg_dump begins", "SELECT count(*)%")],
    ids=["of pg_dump", "of the snapshot"],
)
async def test_a_session_that_is_ended_fails_the_attempt(
    plant: Plant, gate: Gate, hold: str, session: str
) -> None:
    """An administrator ends it while it is needed."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLDS[hold], gate=gate)
        attempt = tasks.create_task(plant.failure(claim, **program))
        await gate.reached()
        await plant.ends_session(session)
        gate.open()

    assert isinstance(attempt.result(), TemporaryError)
    assert attempt.result().code == "server_gone"


async def test_a_limit_on_idle_sessions_does_not_end_ours(plant: Plant, gate: Gate) -> None:
    """One of them says nothing for as long as the dump takes."""
    database = await plant.owner.fetchval("SELECT quote_ident(current_database())")
    limit = f"ALTER ROLE pgferry_dump IN DATABASE {database} SET idle_session_timeout"
    await plant.owner.execute(f"{limit} = '200ms'")
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLDS["within the first table"], gate=gate)
        tasks.create_task(plant.attempt(claim, **program))
        await gate.reached()
        idle = await asyncpg.connect(plant.environment["TENANT_DATABASE_URL"])
        await eventually(closed(idle))
        gate.open()
    await plant.owner.execute(f"{limit} = DEFAULT")

    assert plant.prefix(claim).read_dump().rows == 3 * ROWS


def closed(session: asyncpg.Connection) -> Callable[[], Awaitable[bool]]:
    async def is_closed() -> bool:
        return session.is_closed()

    return is_closed
