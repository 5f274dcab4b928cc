"""`pgferry backups …`: what is in the chat, and how to get it back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.fetch import Fetch, Fetched
from cli.output import show_fields, show_json, show_table, size_of
from cli.run import CannotDo, control_plane, finished, settings_or_exit
from cli.settings import FetchSettings
from shared.contracts.manifest import Manifest
from shared.runtime.signing import MANIFEST, Signer
from shared.storage.backups import Backup
from shared.telegram.client import TelegramChatStore, open_telegram

app = typer.Typer(no_args_is_help=True, help="List backups, and bring one back from the chat.")

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@app.command("list")
def list_backups(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: AsJson = False,
) -> None:
    """The newest backups first."""
    backups = finished(_list(project, limit))
    if as_json:
        show_json([asdict(backup) for backup in backups])
        return
    show_table(
        ("BACKUP", "PROJECT", "STATUS", "SIZE", "PARTS", "TABLES", "ROWS", "CREATED", "EXPIRES"),
        [
            (
                backup.id,
                backup.project_id,
                backup.status,
                size_of(backup.size_bytes),
                backup.part_count,
                backup.table_count,
                backup.row_count,
                backup.created_at,
                backup.expires_at,
            )
            for backup in backups
        ],
    )


@app.command()
def show(backup_id: UUID, as_json: AsJson = False) -> None:
    """Everything about one backup."""
    backup = asdict(finished(_find(backup_id)))
    if as_json:
        show_json(backup)
    else:
        show_fields([(name, value) for name, value in backup.items() if value is not None])


@app.command()
def fetch(
    backup_id: UUID,
    to: Annotated[Path, typer.Option("--to", help="A new or empty folder.", file_okay=False)],
) -> None:
    """Bring manifest and parts back from the chat, check them, and write SHA256SUMS.

    Example: pgferry backups fetch 0a4c… --to /restore/acme

    From there on only standard tools are needed; the command prints them.
    """
    fetched = finished(_fetch(backup_id, to))
    typer.echo(f"{len(fetched.parts)} parts, {size_of(fetched.size_bytes)}, checked, in {to}", err=True)
    typer.echo(restore_lines(fetched.manifest, to))


def restore_lines(manifest: Manifest, folder: Path) -> str:
    """The standard commands that restore this backup into an empty database."""
    steps = ["cat part-*"]
    if manifest.dump.encryption:
        steps.append("age -d -i KEY_FILE")
    if manifest.dump.compression.value != "none":
        steps.append({"zstd": "zstd -d", "gzip": "gzip -d"}[manifest.dump.compression.value])
    steps.append('psql -X -v ON_ERROR_STOP=1 --single-transaction "$TARGET_URL"')
    return f"cd {folder}\nsha256sum -c SHA256SUMS\n" + " | ".join(steps)


async def _list(project: str | None, limit: int) -> list[Backup]:
    async with control_plane() as database, database.session() as session:
        return await session.backups.list(project_id=project, limit=limit)


async def _find(backup_id: UUID) -> Backup:
    async with control_plane() as database, database.session() as session:
        backup = await session.backups.find(backup_id)
    if backup is None:
        raise CannotDo(f"no backup {backup_id}")
    return backup


async def _fetch(backup_id: UUID, to: Path) -> Fetched:
    settings = settings_or_exit(FetchSettings)
    backup = await _find(backup_id)
    async with _telegram(settings) as telegram:
        return await Fetch(telegram, Signer.of(settings.signing_secrets, purpose=MANIFEST))(backup, to)


@asynccontextmanager
async def _telegram(settings: FetchSettings) -> AsyncIterator[TelegramChatStore]:
    token = settings.bot_token.get_secret_value()
    async with open_telegram(token, settings.telegram_api_url) as telegram:
        await telegram.introduce()
        yield telegram
