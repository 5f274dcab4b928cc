"""What runs a statement: a connection of our own or one borrowed from the pool."""

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Executor = asyncpg.Connection | PoolConnectionProxy

#: What a lost connection raises; InternalClientError, where the server has just ended an idle session and
#: asyncpg still reads the server's last words.
CONNECTION_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
