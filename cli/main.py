"""`pgferry`: the entry point; each group of commands has its own module.

What only one command needs (a service, Alembic, an AMQP library) is imported by that command, so that
`pgferry jobs list` is quick.
"""

from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from cli import backups, catalogue, dlq, doctor, jobs, keys, records, sending
from cli.run import control_plane, fail, finished, settings_or_exit
from cli.settings import BrokerSettings, DevelopmentSettings

if TYPE_CHECKING:
    from shared.storage.migrate import Migrated

app = typer.Typer(
    name="pgferry",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Ferries a tenant's PostgreSQL schema through pg_dump into a Telegram chat, and brings it back. "
    "Settings come from the environment; each NAME may also be given as NAME_FILE.",
)
broker_app = typer.Typer(no_args_is_help=True, help="The broker's exchanges and queues.")

app.command()(jobs.export)
app.add_typer(jobs.app, name="jobs")
for command in (sending.send, sending.record, records.update, records.delete, records.stats):
    backups.app.command()(command)
app.add_typer(backups.app, name="backups")
app.add_typer(catalogue.app, name="catalogue")
app.add_typer(doctor.app, name="doctor")
app.add_typer(dlq.app, name="dlq")
app.add_typer(keys.app, name="keys")
app.add_typer(broker_app, name="broker")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the flag's value
    if wanted:
        typer.echo(f"pgferry {version('pgferry')}")
        raise typer.Exit


@app.callback()
def pgferry(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None: ...


@app.command("migrate")
def migrate_command() -> None:
    """Bring the schema control_plane to this version, as its owner; DATABASE_URL names the database."""
    done = finished(_migrate())
    before = done.before or "nothing"
    typer.echo(f"control_plane: {before} -> {done.after}" if done.before != done.after else "up to date")


@broker_app.callback()
def broker() -> None:
    """Keep subcommands: with a single command typer would drop its name."""


@broker_app.command("declare")
def declare_command() -> None:
    """Declare every exchange and queue; the services do the same when they start."""
    from cli.broker import declare_topology  # noqa: PLC0415 - see the module's docstring

    finished(declare_topology(settings_or_exit(BrokerSettings).amqp_url))
    typer.echo("declared")


@app.command()
def gateway() -> None:
    """Start the HTTP gateway; it ends in order on SIGTERM."""
    from services.gateway.__main__ import start  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(start())


@app.command()
def exporter() -> None:
    """Start an exporter; it ends in order on SIGTERM."""
    from services.exporter.__main__ import start  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(start())


@app.command()
def uploader() -> None:
    """Start an uploader; it ends in order on SIGTERM."""
    from services.uploader.__main__ import start  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(start())


@app.command()
def token(
    project: Annotated[str | None, typer.Argument(help="The token's project_id.")] = None,
    operator: Annotated[bool, typer.Option("--operator", help="May act for every project.")] = False,
    minutes: Annotated[int, typer.Option(min=1, max=1440, help="How long it is valid.")] = 60,
) -> None:
    """Issue a token for development; needs PGFERRY_DEV=1 and the gateway's JWT settings.

    Example: PGFERRY_DEV=1 pgferry token acme
    """
    from services.gateway.settings import TokenSettings  # noqa: PLC0415 - see the module's docstring
    from services.gateway.tokens import CannotSign, issue  # noqa: PLC0415 - see the module's docstring

    if not settings_or_exit(DevelopmentSettings).development:
        fail("tokens are issued only with PGFERRY_DEV=1; never set that in production", code=2)
    if project is None and not operator:
        fail("name the PROJECT, or ask for --operator", code=2)
    settings, lifetime = settings_or_exit(TokenSettings), timedelta(minutes=minutes)
    try:
        typer.echo(issue(settings, project, operator=operator, lifetime=lifetime, now=datetime.now(UTC)))
    except CannotSign as error:
        fail(str(error))


async def _migrate() -> "Migrated":
    async with control_plane() as database, database.pool.acquire() as connection:
        from shared.storage.migrate import migrate  # noqa: PLC0415 - see the module's docstring

        return await migrate(connection)


def main() -> None:
    app(prog_name="pgferry")


if __name__ == "__main__":
    main()
