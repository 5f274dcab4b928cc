"""Whatever a schema holds comes back equal: generated ones, and a fixed one with one of everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from sandbox.tenants import create_everything
from shared.contracts.job import Format
from tests.integration.edge_values import TYPES, WITHOUT_INPUT, every_type
from tests.integration.export_plant import plant_on
from tests.integration.generated_schemas import schemas
from tests.integration.jobs_in import copied_database
from tests.integration.round_trip import RoundTrip, Statements, round_trip_between

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox.postgres import PostgresServer


@pytest.fixture(scope="module")
async def round_trip(
    postgres_server: PostgresServer,
    control_plane_template: str,
    role_passwords: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[RoundTrip]:
    """One exporter for all examples."""
    folder = tmp_path_factory.mktemp("round-trip")
    async with (
        copied_database(postgres_server, control_plane_template) as source,
        copied_database(postgres_server, "template1") as target,
        plant_on(source, folder, role_passwords) as plant,
        round_trip_between(source, target, plant) as round_trip,
    ):
        yield round_trip


# An example takes a second: fewer than of others, and no search for a smaller one that fails, too.
@settings(
    max_examples=settings().max_examples // 12,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(statements=schemas())
async def test_a_generated_schema_comes_back_equal(
    round_trip: RoundTrip, statements: tuple[str, ...]
) -> None:
    """In rows, in definitions, and in what pg_dump says of it."""
    comparison = await round_trip(Statements(statements))

    assert comparison.differences == ()


#: What may be a column's type, arrays aside.
_BUILT_IN = """
    SELECT typname FROM pg_type
     WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
       AND oid NOT IN (SELECT typarray FROM pg_type) AND oid <> ALL($1::text[]::regtype[])
"""


@pytest.mark.parametrize("form", Format, ids=str)
async def test_every_built_in_type_comes_back_equal(round_trip: RoundTrip, form: Format) -> None:
    """With the values at its edges, alone and in arrays; the server's catalog says which types there are."""
    left_out = await round_trip.owner.fetch(_BUILT_IN, [type_.sql for type_ in TYPES])
    assert {name for (name,) in left_out} == WITHOUT_INPUT

    comparison = await round_trip(Statements(every_type(TYPES)), form)

    assert comparison.differences == ()


@pytest.mark.parametrize("form", Format, ids=str)
async def test_one_of_everything_comes_back_equal(round_trip: RoundTrip, form: Format) -> None:
    """A fixed schema with what the generated ones have and what they hardly meet."""
    comparison = await round_trip(create_everything, form)

    assert comparison.differences == ()
    assert (comparison.tables, comparison.views) == (16, 5)
