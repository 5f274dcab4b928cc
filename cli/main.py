"""`pgferry`: the entry point; each group of commands has its own module.

Services are imported only by the command that starts them, so that `pgferry jobs list` is quick.
"""

from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Annotated

import typer

from cli import backups, jobs, keys
from cli.run import CannotDo, control_plane, finished, settings_or_exit
from cli.settings import BrokerSettings, DevelopmentSettings
from shared.messaging.connection import BROKER_ERRORS, connected
from shared.messaging.declare import declare
from shared.storage.migrate import Migrated, migrate

app = typer.Typer(
    name="pgferry",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Ferries a tenant's PostgreSQL schema through pg_dump into a Telegram chat, and brings it back. "
    "Settings come from the environment; each NAME may also be given as NAME_FILE.",
)
broker_app = typer.Typer(no_args_is_help=True, help="The broker's exchanges and queues.")

app.command()(jobs.export)
app.add_typer(jobs.app, name="jobs")
app.add_typer(backups.app, name="backups")
app.add_typer(keys.app, name="keys")
app.add_typer(broker_app, name="broker")


@app.command("migrate")
def migrate_command() -> None:
    """Bring the schema control_plane to this version."""
    done = finished(_migrate())
    before = done.before or "nothing"
    typer.echo(f"control_plane: {before} -> {done.after}" if done.before != done.after else "up to date")


@broker_app.callback()
def broker() -> None:
    """Keep subcommands: with a single command typer would drop its name."""


@broker_app.command("declare")
def declare_command() -> None:
    """Declare every exchange and queue; the services do the same when they start."""
    finished(_declare(settings_or_exit(BrokerSettings).amqp_url))
    typer.echo("declared")


@app.command()
def gateway() -> None:
    """Start the HTTP gateway."""
    from services.gateway.__main__ import start  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(start())


@app.command()
def exporter() -> None:
    """Start an exporter."""
    from services.exporter.__main__ import start  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(start())


@app.command()
def uploader() -> None:
    """Start an uploader."""
    from services.uploader.__main__ import start  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(start())


@app.command()
def token(
    project: Annotated[str | None, typer.Argument(help="The token's project_id.")] = None,
    operator: Annotated[bool, typer.Option("--operator", help="May act for every project.")] = False,
    minutes: Annotated[int, typer.Option(min=1, max=1440)] = 60,
) -> None:
    """Issue a token for development; needs PGFERRY_DEV=1 and the gateway's JWT settings."""
    from services.gateway.settings import TokenSettings  # noqa: PLC0415 - see the module's docstring
    from services.gateway.tokens import CannotSign, issue  # noqa: PLC0415 - see the module's docstring

    if not settings_or_exit(DevelopmentSettings).development:
        typer.echo(
            "pgferry: tokens are issued only with PGFERRY_DEV=1; never set that in production", err=True
        )
        raise typer.Exit(2)
    try:
        typer.echo(
            issue(
                settings_or_exit(TokenSettings),
                project,
                operator=operator,
                lifetime=timedelta(minutes=minutes),
                now=datetime.now(UTC),
            )
        )
    except CannotSign as error:
        typer.echo(f"pgferry: {error}", err=True)
        raise typer.Exit(1) from error


@app.command("version")
def version_command() -> None:
    """Print the version."""
    typer.echo(version("pgferry"))


async def _migrate() -> Migrated:
    async with control_plane() as database, database.pool.acquire() as connection:
        return await migrate(connection)


async def _declare(url: str) -> None:
    try:
        async with connected(url, name="pgferry-cli") as connection:
            await declare(connection)
    except BROKER_ERRORS as error:
        raise CannotDo(f"the broker is not reachable: {type(error).__name__}") from error


def main() -> None:
    app()


if __name__ == "__main__":
    main()
