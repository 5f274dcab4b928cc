"""What the tenant's server refuses has one name, whoever meets it first, and is retried as it deserves."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sandbox.ports import free_port
from services.exporter.export import Export
from services.exporter.pg_dump import Client
from services.exporter.tenant import forget_libpq_variables
from shared.contracts.errors import PermanentError, TemporaryError, Unavailable
from shared.runtime.worker import Progress
from tests.integration.export_plant import REAL, Gate, Plant, failure_of, plant_on, url_as
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sandbox.postgres import PostgresServer

HOLD_BEFORE = 'read -r < "$GATE"; exec $REAL "$@"'
HOLD_WITHIN = '$REAL "$@" | { head -c 20000; read -r < "$GATE"; cat; }'
GRANT = "grant it as deploy/sql/read_tenants.sql does, then ask again."
ROW_SECURITY = "ALTER TABLE tenant_acme.notes ENABLE ROW LEVEL SECURITY"


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    """With one tenant, more than all pipes hold."""
    async with plant_on(home, tmp_path, role_passwords) as plant:
        await plant.add_tenant(rows=2500)
        yield plant


async def test_a_missing_schema_fails_for_good(plant: Plant) -> None:
    await plant.add_project("nowhere")

    failure = await plant.failure(await plant.claim("nowhere"))

    assert isinstance(failure, PermanentError)
    assert (failure.code, failure.sentence) == (
        "schema_missing",
        "The database has no schema 'tenant_nowhere': create it, or correct the project's slug.",
    )


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("REVOKE SELECT ON tenant_acme.notes FROM pgferry_dump", "table notes"),
        ("REVOKE USAGE ON SCHEMA tenant_acme FROM pgferry_dump", "schema tenant_acme"),
        ("CREATE TABLE tenant_acme.new (a int)", "table new"),
        ("REVOKE SELECT ON SEQUENCE tenant_acme.orders_id_seq FROM pgferry_dump", "sequence orders_id_seq"),
        ("CREATE TABLE tenant_acme.later (id serial)", "table later, sequence later_id_seq"),
        (
            "SELECT format('CREATE TABLE tenant_acme.t%s ()', n) FROM generate_series(1, 7) n",
            "table t1, table t2, table t3, table t4, table t5 and 2 more",
        ),
    ],
    ids=["table", "schema", "a later table", "sequence", "serial", "many"],
)
async def test_a_missing_permission_fails_for_good_and_says_where(
    plant: Plant, statement: str, what: str
) -> None:
    """Before pg_dump runs: rows that the role may not see are never silently left out."""
    for made in await plant.owner.fetch(statement):
        await plant.owner.execute(made[0])

    failure = await plant.failure(await plant.claim(), **plant.pg_dump("exit 3"))

    assert isinstance(failure, PermanentError)
    assert (failure.code, failure.sentence) == (
        "permission_missing",
        f"The dump role may not read {what}: {GRANT}",
    )


async def test_row_security_in_force_fails_for_good_and_says_where(plant: Plant) -> None:
    """A policy would let the dump see some rows and hide the others."""
    await plant.owner.execute(ROW_SECURITY)

    failure = await plant.failure(await plant.claim())

    assert isinstance(failure, PermanentError)
    assert (failure.code, failure.sentence) == (
        "row_security",
        "Row-level security hides rows of table notes from the dump role: "
        "ALTER ROLE … BYPASSRLS, then ask again.",
    )


async def test_row_security_does_not_hold_back_a_role_that_may_bypass_it(plant: Plant) -> None:
    await plant.owner.execute(f"{ROW_SECURITY}; ALTER TABLE tenant_acme.notes FORCE ROW LEVEL SECURITY")
    await plant.owner.execute("ALTER ROLE pgferry_dump BYPASSRLS")
    claim = await plant.claim()

    await plant.attempt(claim)

    await plant.owner.execute("ALTER ROLE pgferry_dump NOBYPASSRLS")
    assert plant.prefix(claim).read_dump().rows == 7500


async def test_row_security_of_a_partitioned_parent_hides_nothing(plant: Plant) -> None:
    """Its rows are read from the partitions, where its policies do not apply."""
    await plant.owner.execute(
        """
        CREATE TABLE tenant_acme.events (id int) PARTITION BY RANGE (id);
        CREATE TABLE tenant_acme.events_1 PARTITION OF tenant_acme.events FOR VALUES FROM (0) TO (9);
        INSERT INTO tenant_acme.events SELECT generate_series(1, 3);
        ALTER TABLE tenant_acme.events ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON tenant_acme.events, tenant_acme.events_1 TO pgferry_dump
        """
    )
    claim = await plant.claim()

    await plant.attempt(claim)

    assert plant.prefix(claim).read_dump().rows == 7503


async def test_what_pg_dump_alone_may_not_read_has_the_same_name(plant: Plant, gate: Gate) -> None:
    """It was revoked after we had looked; the reason is told, and no query."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        attempt = tasks.create_task(plant.failure(claim, **plant.pg_dump(HOLD_BEFORE, gate=gate)))
        await gate.reached()
        await plant.owner.execute("REVOKE SELECT ON SEQUENCE tenant_acme.orders_id_seq FROM pgferry_dump")
        gate.open()

    assert isinstance(attempt.result(), PermanentError)
    assert (attempt.result().code, attempt.result().sentence) == (
        "permission_missing",
        f"The dump role may not read everything (permission denied for sequence orders_id_seq): {GRANT}",
    )


async def test_a_locked_table_is_not_waited_for_too_long(plant: Plant) -> None:
    """Those who want to read it would wait behind us; it is tried again later."""
    claim = await plant.claim()

    async with plant.owner.transaction():
        await plant.owner.execute("LOCK TABLE tenant_acme.notes IN ACCESS EXCLUSIVE MODE")
        failure = await plant.failure(claim, PGFERRY_LOCK_SECONDS="0.2")

    assert isinstance(failure, TemporaryError)
    assert (failure.code, failure.sentence) == (
        "lock_timeout",
        "A table was locked by somebody else for longer than PGFERRY_LOCK_SECONDS.",
    )


@asynccontextmanager
async def rebuilding_an_index(home: str) -> AsyncIterator[None]:
    """The count of its table waits for it; pg_dump does not."""
    other = await asyncpg.connect(home)
    async with other.transaction():
        await other.execute("REINDEX INDEX tenant_acme.customers_pkey")
        yield
    await other.close()


async def test_a_cancelled_query_is_a_new_attempt(plant: Plant, gate: Gate, home: str) -> None:
    """An administrator cancels our count."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks, rebuilding_an_index(home):
        attempt = tasks.create_task(plant.failure(claim, **plant.pg_dump(HOLD_BEFORE, gate=gate)))
        await gate.reached()
        await eventually(plant.waits_for_lock)
        await plant.owner.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        gate.open()

    assert isinstance(attempt.result(), TemporaryError)
    assert (attempt.result().code, attempt.result().sentence) == (
        "query_cancelled",
        "Somebody, or a limit on the tenant server, cancelled our query: "
        "canceling statement due to user request.",
    )


@pytest.mark.parametrize("limit", [0, 1, 2], ids=["the probe", "the snapshot", "pg_dump"])
async def test_no_connection_left_costs_nothing(plant: Plant, limit: int) -> None:
    """Whichever of our three sessions is the one too many."""
    claim = await plant.claim()

    await plant.owner.execute(f"ALTER ROLE pgferry_dump CONNECTION LIMIT {limit}")
    failure = await plant.failure(claim)
    await plant.owner.execute("ALTER ROLE pgferry_dump CONNECTION LIMIT -1")

    assert isinstance(failure, Unavailable)
    assert failure.code == "too_many_connections"


async def test_a_refused_login_costs_nothing(plant: Plant, home: str) -> None:
    """It concerns every project: a changed password must not bury the backlog until it is corrected."""
    claim = await plant.claim()

    for url in (url_as(home, "pgferry_dump", "wrong"), url_as(home, "nobody", "wrong")):
        failure = await plant.failure(claim, TENANT_DATABASE_URL=url)

        assert isinstance(failure, Unavailable)
        assert failure.code == "login_refused"
        assert failure.sentence == (
            "The tenant database refused the dump role's login: correct TENANT_DATABASE_URL, "
            "the role's password or pg_hba.conf."
        )


async def test_a_login_that_is_refused_to_pg_dump_alone_has_the_same_name(plant: Plant, gate: Gate) -> None:
    """The role was locked out after the snapshot."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        attempt = tasks.create_task(plant.failure(claim, **plant.pg_dump(HOLD_BEFORE, gate=gate)))
        await gate.reached()
        await plant.owner.execute("ALTER ROLE pgferry_dump NOLOGIN")
        gate.open()
    await plant.owner.execute("ALTER ROLE pgferry_dump LOGIN")

    assert attempt.result().code == "login_refused"


async def test_a_missing_database_costs_nothing(plant: Plant) -> None:
    url = plant.environment["TENANT_DATABASE_URL"] + "-nowhere"

    failure = await plant.failure(await plant.claim(), TENANT_DATABASE_URL=url)

    assert isinstance(failure, Unavailable)
    assert failure.code == "database_missing"


async def test_an_unreachable_server_costs_nothing(plant: Plant) -> None:
    """The job goes back; its sentence holds no address and no login."""
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/t"

    failure = await plant.failure(await plant.claim(), TENANT_DATABASE_URL=url)

    assert isinstance(failure, Unavailable)
    assert (failure.code, failure.name) == ("tenant_database_unavailable", "tenant_database")
    assert failure.sentence == "The tenant database is not reachable: ConnectionRefusedError."


async def test_an_older_client_is_not_even_tried(plant: Plant) -> None:
    """The sentence names the major version that is missing; another exporter may have it."""
    export = plant.export()
    older = Export(export.database, export.spool, [Client(REAL, 9, "9.6.24")], export.settings)

    failure = await failure_of(older(await plant.claim(), Progress()))

    assert isinstance(failure, Unavailable)
    assert failure.code == "client_missing"
    major = plant.owner.get_server_version().major
    assert failure.sentence.startswith(f"The server is PostgreSQL {major}; install its pg_dump, or a newer")
    assert plant.files() == []


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def probe_pid(plant: Plant) -> int:
    [probe] = [session["pid"] for session in await plant.sessions() if "has_rows" in session["query"]]
    return int(probe)


async def counted(plant: Plant) -> None:
    """Return when the snapshot's session has nothing left to do."""

    async def is_idle() -> bool:
        return bool(
            await plant.owner.fetchval(
                "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
                " AND state = 'idle in transaction' AND query LIKE 'SELECT count(*)%orders%'"
            )
        )

    await eventually(is_idle)


async def test_a_probe_that_is_cut_off_connects_again(plant: Plant, gate: Gate) -> None:
    """It has said nothing for as long as the dump took; the dump is good all the same."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(plant.attempt(claim, **plant.pg_dump(HOLD_WITHIN, gate=gate)))
        await gate.reached()
        await counted(plant)
        await plant.ends_session("%has_rows%")
        gate.open()

    assert plant.prefix(claim).read_dump().rows == 7500


async def test_a_session_that_answers_no_more_is_replaced(plant: Plant, gate: Gate) -> None:
    """Its process is stopped, as a machine that hangs would be."""
    claim = await plant.claim()
    async with asyncio.TaskGroup() as tasks:
        program = plant.pg_dump(HOLD_WITHIN, gate=gate)
        attempt = tasks.create_task(plant.attempt(claim, PGFERRY_ANSWER_SECONDS="0.3", **program))
        await gate.reached()
        await counted(plant)
        with frozen(await probe_pid(plant)):
            gate.open()
            await attempt

    assert plant.prefix(claim).read_dump().rows == 7500


async def test_a_frozen_server_holds_no_slot(plant: Plant, postgres_server: PostgresServer) -> None:
    """It takes the connection and says nothing; the job goes back."""
    claim = await plant.claim()

    with frozen(postmaster(postgres_server)):
        async with asyncio.timeout(5):
            failure = await plant.failure(claim, PGFERRY_ANSWER_SECONDS="0.3")

    assert isinstance(failure, Unavailable)
    assert failure.code == "tenant_database_unavailable"


def postmaster(server: PostgresServer) -> int:
    return int((server.directory / "data" / "postmaster.pid").read_text().split()[0])


async def test_a_count_does_not_outlive_its_attempt(plant: Plant, gate: Gate, home: str) -> None:
    """It waits for an index that somebody rebuilds; the server would tell it of our end much later."""
    claim = await plant.claim()
    async with rebuilding_an_index(home):
        attempt = asyncio.create_task(plant.attempt(claim, **plant.pg_dump(HOLD_BEFORE, gate=gate)))
        await gate.reached()
        await eventually(plant.waits_for_lock)

        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await eventually(plant.has_no_session, seconds=2)


def test_only_the_url_says_where_to_connect() -> None:
    """The driver would take what the URL leaves open from the variables of libpq; pg_dump never sees them."""
    environment = {
        "PGPASSWORD": "x",
        "PGHOST": "elsewhere",
        "PGSERVICE": "x",
        "PGSSLMODE": "disable",
        "PGFERRY_ANSWER_SECONDS": "60",
        "PG_BIN_DIRS": "/bin",
        "PATH": "/bin",
    }

    forget_libpq_variables(environment)

    assert sorted(environment) == ["PATH", "PGFERRY_ANSWER_SECONDS", "PG_BIN_DIRS"]
