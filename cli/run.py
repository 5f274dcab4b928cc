"""Runs a command's coroutine and turns what it raises into one sentence and an exit code.

0 done · 1 could not be done · 2 wrong usage or settings
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import typer

from cli.settings import DatabaseSettings
from shared.contracts.errors import Failure
from shared.runtime.process import Fatal
from shared.runtime.settings import AnySettings, SettingsError, load
from shared.runtime.signing import NotAuthentic
from shared.storage.database import Database, open_database

Result = TypeVar("Result")


class CannotDo(Exception):
    """The command's own reason to stop; shown as it is."""


def finished(command: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end; exits with 1 and one sentence on a failure that has a name."""
    try:
        return asyncio.run(command)
    except (Failure, Fatal, CannotDo, NotAuthentic) as error:
        typer.echo(f"pgferry: {error}", err=True)
        raise typer.Exit(1) from error


def settings_or_exit(settings: type[AnySettings]) -> AnySettings:
    """Exits with 2 after printing every problem."""
    try:
        return load(settings)
    except SettingsError as error:
        for problem in error.problems:
            typer.echo(f"pgferry: {problem}", err=True)
        raise typer.Exit(2) from error


def control_plane() -> AbstractAsyncContextManager[Database]:
    """The database that DATABASE_URL names."""
    return open_database(settings_or_exit(DatabaseSettings).database_url, name="pgferry-cli", size=2)
