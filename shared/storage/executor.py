"""What runs a statement: a connection of our own or one borrowed from the pool."""

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Executor = asyncpg.Connection | PoolConnectionProxy
