"""`pgferry backups update`, `delete` and `stats`: the record of what is in the chat, without the chat."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError

from cli.backups import AsJson, BackupId
from cli.output import show_fields, show_json, show_table, size_of
from cli.run import control_plane, fail, finished, refuse_options, user
from shared.contracts.backup import Changes
from shared.storage.backups import Backup, Statistics
from shared.storage.keeping import Keeping


def update(
    backup_id: BackupId,
    caption: Annotated[str | None, typer.Option(help="In the record.")] = None,
    storage_path: Annotated[str | None, typer.Option(help="A label like invoices/2026.")] = None,
    expires: Annotated[int | None, typer.Option(help="Days from now.")] = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="Keep it until deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change what is recorded of a stored backup.

    The chat keeps the first caption and label: a catalogue rebuild brings them back, with the newest expiry.

    Example: pgferry backups update 0a4c8f5e-7c56-4be2-8a02-5d7d1d4f9e11 --expires 30
    """
    try:
        changes = Changes(
            caption=caption, storage_path=storage_path, expires_in_days=expires, never_expires=never_expires
        )
    except ValidationError as error:
        refuse_options(error, expires_in_days="--expires")
    if expires and never_expires:
        fail("say only one of --expires and --never-expires", code=2)
    if changes == Changes():
        fail("say what is to change: --caption, --storage-path, --expires or --never-expires", code=2)
    backup = asdict(finished(_update(backup_id, changes)))
    if as_json:
        show_json(backup)
    else:
        show_fields(backup)


def delete(
    backup_id: BackupId,
    even_newest: Annotated[
        bool, typer.Option("--even-newest", help="Also the newest stored one of its project and type.")
    ] = False,
) -> None:
    """End a backup before its time; an uploader then takes its documents out of the chat.

    Example: pgferry backups delete 0a4c8f5e-7c56-4be2-8a02-5d7d1d4f9e11
    """
    finished(_delete(backup_id, even_newest=even_newest))
    typer.echo(f"backup {backup_id} is expiring: an uploader takes its documents out of the chat")


def stats(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    as_json: AsJson = False,
) -> None:
    """How much is stored, by project and type.

    Example: pgferry backups stats --project acme
    """
    rows = finished(_statistics(project))
    if as_json:
        show_json([asdict(row) for row in rows])
        return
    show_table(
        ("PROJECT", "TYPE", "BACKUPS", "SIZE", "NEWEST", "OLDEST"),
        [
            (row.project_id, row.type, row.backups, size_of(row.size_bytes), row.newest_at, row.oldest_at)
            for row in rows
        ],
    )


async def _update(backup_id: UUID, changes: Changes) -> Backup:
    async with control_plane() as database:
        return await Keeping(database, user()).update(backup_id, changes)


async def _delete(backup_id: UUID, *, even_newest: bool) -> None:
    async with control_plane() as database:
        await Keeping(database, user()).delete(backup_id, even_newest=even_newest)


async def _statistics(project: str | None) -> Sequence[Statistics]:
    async with control_plane() as database, database.session() as session:
        return await session.backups.statistics(project)
