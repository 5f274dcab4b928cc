"""Sessions on the tenants' server, each marked with job and fence.

Opened by `services.exporter.export`, `probe` and `tenant_server`; the server's errors get their names
here.
"""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager

import asyncpg

from services.exporter.complaints import SERVER_ERRORS, failure_of, refusal_of
from shared.contracts.job import Claim

_CONNECT_SECONDS = 10.0
#: Of the variables that begin so, only the settings of pgferry are ours.
_LIBPQ_PREFIX, _OWN = "PG", ("PGFERRY_", "PG_BIN_DIRS")


def forget_libpq_variables(environment: MutableMapping[str, str]) -> None:
    """Let the URL alone say where to connect: asyncpg would heed PGPASSWORD and its like, pg_dump never."""
    for name in [*environment]:
        if name.startswith(_LIBPQ_PREFIX) and not name.startswith(_OWN):
            del environment[name]


@asynccontextmanager
async def open_tenant(
    url: str, claim: Claim, *, answer_seconds: float | None = None
) -> AsyncIterator[asyncpg.Connection]:
    """A session for the block. Raises Unavailable when the server gives none.

    `answer_seconds` is how long each query may take; without it whoever asks limits the time.
    """
    connection = await connect_tenant(url, claim.application_name, answer_seconds=answer_seconds)
    try:
        yield connection
    finally:
        connection.terminate()


async def connect_tenant(
    url: str, application_name: str, *, answer_seconds: float | None
) -> asyncpg.Connection:
    """Raises Unavailable when the server gives no session."""
    try:
        return await asyncpg.connect(
            url,
            timeout=min(_CONNECT_SECONDS, answer_seconds or _CONNECT_SECONDS),
            command_timeout=answer_seconds,
            server_settings={
                "application_name": application_name,
                "search_path": "pg_catalog",
                "idle_session_timeout": "0",  # a probe says nothing for as long as the dump takes
                "client_connection_check_interval": "5s",  # or a count outlives us by its whole time
            },
        )
    except SERVER_ERRORS as error:
        raise refusal_of(error) from error


@contextmanager
def speaking_to_tenant() -> Iterator[None]:
    """Give the tenant server's errors their names."""
    try:
        yield
    except SERVER_ERRORS as error:
        raise failure_of(error) from error
