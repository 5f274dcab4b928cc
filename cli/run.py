"""Runs a command's coroutine and turns what it raises into one sentence and an exit code.

0 done · 1 could not be done · 2 wrong usage or settings · 3 done in part · 130 stopped by Ctrl-C
"""

import asyncio
import getpass
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

import asyncpg
import typer
from pydantic import ValidationError

from cli.settings import DatabaseSettings
from shared.contracts.errors import Failure, Unavailable
from shared.runtime.process import Fatal
from shared.runtime.refusals import words_of
from shared.runtime.settings import AnySettings, SettingsError, load
from shared.runtime.signing import NotAuthentic
from shared.storage.database import Database, open_database, reaching_database

Result = TypeVar("Result")

DONE_IN_PART = 3
_INTERRUPTED = 130  # what a shell reports after SIGINT
_PLACES = {
    "database_unavailable": "DATABASE_URL, and whether its server runs",
    "telegram_unavailable": "TELEGRAM_API_URL, if it is set, and this machine's way to it",
}


class CannotDo(Exception):
    """The command's own reason to stop; shown as it is."""


def finished(command: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end; exits with 1 and one sentence on a failure that has a name."""
    logging.getLogger().addHandler(logging.NullHandler())  # libraries would print beside the sentence
    try:
        return asyncio.run(command)
    except Unavailable as error:
        fail(_where_to_look(error))
    except (Failure, Fatal, CannotDo, NotAuthentic) as error:
        fail(str(error))
    except asyncpg.PostgresError as error:
        fail(_postgres_says(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def fail(*sentences: str, code: int = 1) -> NoReturn:
    """Exit with `code` after one line for each sentence."""
    for sentence in sentences:
        typer.echo(f"pgferry: {sentence}", err=True)
    raise typer.Exit(code)


def settings_or_exit(settings: type[AnySettings]) -> AnySettings:
    """Exits with 2 after printing every problem."""
    try:
        return load(settings)
    except SettingsError as error:
        fail(*error.problems, code=2)


@asynccontextmanager
async def control_plane() -> AsyncIterator[Database]:
    """The database that DATABASE_URL names, reached once before the block begins."""
    url = settings_or_exit(DatabaseSettings).database_url
    async with open_database(url, name="pgferry-cli", size=2) as database:
        await _reach(database)
        yield database


def refuse_url(variable: str) -> NoReturn:
    """Exit with 2 for a URL that nobody can parse; what the parser says may hold a piece of a password."""
    fail(f"{variable}: cannot be read as a URL; in a password write / # @ : as %2F %23 %40 %3A", code=2)


def refuse_options(error: ValidationError, **names: str) -> NoReturn:
    """Exit with 2 and a line for each problem; an option is called like its field, or as `names` says."""
    problems = error.errors(include_url=False, include_input=False)
    fail(*(f"{_option(str(problem['loc'][0]), names)}: {words_of(problem)}" for problem in problems), code=2)


def _option(field: str, names: Mapping[str, str]) -> str:
    return names.get(field, "--" + field.replace("_", "-"))


async def _reach(database: Database) -> None:
    try:
        with reaching_database():
            await database.pool.fetchval("SELECT 1")
    except ValueError:
        refuse_url("DATABASE_URL")


def _where_to_look(error: Unavailable) -> str:
    """With what may be wrong, where the error knows only what happened."""
    place = _PLACES.get(error.code)
    return f"{error.sentence.removesuffix('.')}; look at {place}." if place else error.sentence


def _postgres_says(error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return f"control_plane is not of this version ({error}); run: pgferry migrate"
    return f"PostgreSQL refused: {error}"


def user() -> str:
    """Who is logged in; a container may know only a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
