"""`pgferry catalogue …`: what the chat alone knows, and how to fill a control plane from it.

Only a command that runs loads the Telegram library.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import counted, show_json, show_table, size_of
from cli.run import control_plane, fail, finished, settings_or_exit
from cli.settings import CatalogueSettings, RebuildSettings
from shared.contracts.catalogue import Catalogue

if TYPE_CHECKING:
    from cli.rebuild import Rebuilt

app = typer.Typer(no_args_is_help=True, help="The list of backups that is pinned in the chat.")

Chat = Annotated[
    int | None, typer.Option("--chat", help="Where it is pinned; else the first of TELEGRAM_CHAT_ID.")
]
FileId = Annotated[
    str | None, typer.Option("--file-id", help="Instead of what is pinned: from the uploader's log.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@app.command()
def show(chat: Chat = None, file_id: FileId = None, as_json: AsJson = False) -> None:
    """Fetch what is pinned, verify it, and list it; needs no database.

    Example: pgferry catalogue show --chat -1001234567890
    """
    catalogue = finished(_show(chat, file_id))
    if as_json:
        show_json(catalogue.model_dump())
        return
    show_table(
        ("BACKUP", "PROJECT", "SIZE", "CREATED", "EXPIRES"),
        [
            (entry.backup_id, entry.project_id, size_of(entry.size_bytes), entry.created_at, entry.expires_at)
            for entry in catalogue.entries
        ],
    )
    backups = counted(len(catalogue.entries), "backup")
    typer.echo(
        f"catalogue {catalogue.revision} of {catalogue.made_at:%Y-%m-%d %H:%M:%S}Z: {backups}", err=True
    )


@app.command()
def rebuild(chat: Chat = None, file_id: FileId = None, as_json: AsJson = False) -> None:
    """Record in an empty or partial control plane every backup that the chat's catalogue lists.

    Example: pgferry catalogue rebuild --chat -1001234567890

    Each manifest is fetched and verified. It may be run again; what is known stays as it is.
    """
    done = finished(_rebuild(chat, file_id))
    if as_json:
        show_json([one.as_json() for one in done])
    else:
        show_table(
            ("BACKUP", "PROJECT", "OUTCOME", "REASON"),
            [(one.backup_id, one.project_id, one.outcome, one.reason) for one in done],
        )
    refused = sum(one.reason is not None for one in done)
    if refused:
        fail(f"not recorded: {counted(refused, 'backup')} of {len(done)}")


async def _show(chat: int | None, file_id: str | None) -> Catalogue:
    from cli.rebuild import catalogue_of, introduced  # noqa: PLC0415 - see the module's docstring

    settings = settings_or_exit(CatalogueSettings)
    async with introduced(settings) as telegram:
        return await catalogue_of(telegram, settings, chat_id=chat, file_id=file_id)


async def _rebuild(chat: int | None, file_id: str | None) -> "list[Rebuilt]":
    from cli.rebuild import rebuilt  # noqa: PLC0415 - see the module's docstring

    settings = settings_or_exit(RebuildSettings)
    async with control_plane() as database:
        return await rebuilt(database, settings, chat_id=chat, file_id=file_id)
