"""Tenants on servers of other majors than the control plane's; PGFERRY_TEST_MAJORS says which."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from sandbox.compare import compare_schemas
from sandbox.postgres import PostgresServer, newest_bin_directory
from sandbox.postgres_majors import WITH_CLIENTS, installation_of
from sandbox.restore import RestoreFailed
from sandbox.tenants import create_everything
from services.exporter.pg_dump import find_clients
from shared.contracts.errors import Unavailable
from shared.contracts.job import Format
from tests.integration.edge_values import TYPES, every_type
from tests.integration.export_plant import Plant, failure_of, plant_on
from tests.integration.jobs_in import copied_database
from tests.integration.round_trip import RoundTrip, Statements, round_trip_between

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import asyncpg

MAJORS = [int(major) for major in os.environ.get("PGFERRY_TEST_MAJORS", str(WITH_CLIENTS)).split()]
OLDER_PROGRAMS = newest_bin_directory()
NEWER_PROGRAMS = installation_of(WITH_CLIENTS).bin_directory
CLIENTS = find_clients(f"{OLDER_PROGRAMS}:{NEWER_PROGRAMS}")
OLDER, NEWER = (client.major for client in CLIENTS)

SMALL = Statements(
    [
        "CREATE TABLE notes (id integer PRIMARY KEY, note text)",
        "INSERT INTO notes VALUES (1, 'SET transaction_timeout = 0;'), (2, NULL)",
        r"COMMENT ON TABLE notes IS E'\nSET transaction_timeout = 0;\n'",
    ]
)


@pytest.fixture(scope="module")
def servers(postgres_server: PostgresServer) -> Iterator[dict[int, PostgresServer]]:
    """One of each major."""
    others = {NEWER, *MAJORS} - {OLDER}
    with ExitStack() as stack:
        started = {
            major: stack.enter_context(PostgresServer(installation=installation_of(major)))
            for major in sorted(others)
        }
        yield {OLDER: postgres_server, **started}


@pytest.fixture(scope="module")
async def plant(
    servers: dict[int, PostgresServer],
    control_plane_template: str,
    role_passwords: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Plant]:
    """An exporter that has the clients of two majors."""
    async with (
        copied_database(servers[OLDER], control_plane_template) as url,
        plant_on(url, tmp_path_factory.mktemp("versions"), role_passwords) as plant,
    ):
        plant.environment["PG_BIN_DIRS"] = f"{OLDER_PROGRAMS}:{NEWER_PROGRAMS}"
        yield plant


@pytest.fixture
async def round_trip(
    request: pytest.FixtureRequest, servers: dict[int, PostgresServer], plant: Plant
) -> AsyncIterator[RoundTrip]:
    """From a server of one major to one of another."""
    source_major, target_major = request.param
    async with (
        copied_database(servers[source_major], "template1") as source,
        copied_database(servers[target_major], "template1") as target,
        round_trip_between(source, target, plant, programs=NEWER_PROGRAMS) as round_trip,
    ):
        yield round_trip


def between(*majors: tuple[int, int]) -> pytest.MarkDecorator:
    """The servers of the test's round trip."""
    names = [f"from {source} to {target}" for source, target in majors]
    return pytest.mark.parametrize("round_trip", majors, indirect=True, ids=names)


async def has_xml(connection: asyncpg.Connection) -> bool:
    """Some servers are built without."""
    built: bool = await connection.fetchval(
        "SELECT setting LIKE '%with-libxml%' FROM pg_config WHERE name = 'CONFIGURE'"
    )
    return built


async def dump_with(programs: Path, round_trip: RoundTrip) -> None:
    async with round_trip.exported(SMALL, PG_BIN_DIRS=str(programs)):
        pass


async def tables(connection: asyncpg.Connection) -> int:
    """Of tenants."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_tables WHERE starts_with(schemaname, 'tenant_')"
    )
    return count


@between(*((major, major) for major in MAJORS))
async def test_whatever_this_major_stores_comes_back_equal(round_trip: RoundTrip) -> None:
    """Dumped by the client of the server's own major, else of the nearest newer; restored by any psql."""
    major = round_trip.owner.get_server_version().major
    fitting = min(client.major for client in CLIENTS if client.major >= major)
    xml = await has_xml(round_trip.owner)
    types = [type_ for type_ in TYPES if xml or type_.sql != "xml"]

    for make in (create_everything, Statements(every_type(types))):
        async with round_trip.exported(make) as claim, round_trip.copy() as copy:
            dump = round_trip.plant.prefix(claim).read_dump()
            assert dump.server_version.startswith(f"{major}.")
            assert dump.client_version.startswith(f"{fitting}.")

            older = major < 17 <= fitting
            round_trip.plant.fetched(claim).restore_into(round_trip.target, older_server=older)

            assert (await round_trip.compared(copy, claim)).differences == ()


@between((NEWER, NEWER))
async def test_a_server_newer_than_every_client_is_named(round_trip: RoundTrip) -> None:
    """The job waits, and its error says which client programs to install."""
    error = await failure_of(dump_with(OLDER_PROGRAMS, round_trip))

    assert isinstance(error, Unavailable)
    assert error.code == "client_missing"
    assert f"PostgreSQL {NEWER}" in error.sentence


@between((OLDER, OLDER), (NEWER, OLDER))
async def test_a_newer_clients_dump_needs_the_documented_filter_for_an_older_server(
    round_trip: RoundTrip,
) -> None:
    """Without it the dump is refused whole, with the reason; it takes a line of the header and no other."""
    async with (
        round_trip.exported(SMALL, PG_BIN_DIRS=str(NEWER_PROGRAMS)) as claim,
        round_trip.copy() as copy,
    ):
        fetched = round_trip.plant.fetched(claim)
        with pytest.raises(RestoreFailed, match='unrecognized configuration parameter "transaction_timeout"'):
            fetched.restore_into(round_trip.target)
        assert await tables(copy) == 0

        fetched.restore_into(round_trip.target, older_server=True)

        schema = round_trip.plant.prefix(claim).read_dump().schema_name
        assert (await compare_schemas(round_trip.owner, copy, schema=schema)).differences == ()


@between((NEWER, OLDER))
async def test_what_an_older_server_does_not_have_is_refused_whole(round_trip: RoundTrip) -> None:
    """The reason is a line of SQL, and nothing stays behind."""
    virtual = Statements(["CREATE TABLE sums (a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL)"])
    async with round_trip.exported(virtual) as claim, round_trip.copy() as copy:
        with pytest.raises(RestoreFailed, match="syntax error"):
            round_trip.plant.fetched(claim).restore_into(round_trip.target, older_server=True)

        assert await tables(copy) == 0


@between((OLDER, OLDER))
async def test_an_archive_of_a_newer_client_needs_its_pg_restore(round_trip: RoundTrip) -> None:
    """An older one says so, and the target stays empty."""
    async with (
        round_trip.exported(SMALL, archive=Format.TAR, PG_BIN_DIRS=str(NEWER_PROGRAMS)) as claim,
        round_trip.copy() as copy,
    ):
        with pytest.raises(RestoreFailed, match="unsupported version"):
            round_trip.plant.fetched(claim).restore_into(round_trip.target)

        assert await tables(copy) == 0
