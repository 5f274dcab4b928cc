"""Which errors of the database are outages, after which the same is tried again."""

import asyncpg
import pytest

from shared.contracts.errors import Unavailable
from shared.storage.database import reaching_database


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError("closed in the middle"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.DiskFullError("no space left"),
        asyncpg.InvalidCatalogNameError("database does not exist"),
        asyncpg.SerializationError("could not serialize"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_passes_by_itself_is_an_outage(error: Exception) -> None:
    """The server is away, is just hanging up, or cannot serve us now."""
    with pytest.raises(Unavailable) as raised, reaching_database():
        raise error

    assert raised.value.name == "database"


@pytest.mark.parametrize(
    ("error", "what_to_do"),
    [
        (asyncpg.InvalidSchemaNameError("no such schema"), "pgferry migrate"),
        (asyncpg.UndefinedTableError("no such table"), "pgferry migrate"),
        (asyncpg.UndefinedColumnError("no such column"), "pgferry migrate"),
        (asyncpg.InsufficientPrivilegeError("permission denied"), "deploy/sql/roles.sql"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_database_that_is_not_made_ready_is_waited_for(error: Exception, what_to_do: str) -> None:
    """Somebody is about to do it, and is told how."""
    with pytest.raises(Unavailable, match=what_to_do), reaching_database():
        raise error


@pytest.mark.parametrize("error", [asyncpg.UndefinedFunctionError("no such function"), ValueError("ours")])
def test_a_mistake_is_not_an_outage(error: Exception) -> None:
    """Waiting does not mend it."""
    with pytest.raises(type(error)), reaching_database():
        raise error
