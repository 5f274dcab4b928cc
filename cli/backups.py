"""`pgferry backups …`: what is in the chat, and how to get it back.

Only `fetch` loads the Telegram library.
"""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.output import counted, show_fields, show_json, show_table, size_of
from cli.run import CannotDo, control_plane, finished, settings_or_exit
from cli.settings import FetchSettings
from shared.contracts.job import Compression, Format
from shared.contracts.manifest import Manifest
from shared.storage.backups import Backup

app = typer.Typer(no_args_is_help=True, help="List backups, and bring one back from the chat.")

BackupId = Annotated[UUID, typer.Argument(help="As `pgferry backups list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]

_DECOMPRESS = {Compression.ZSTD: ["zstd -d"], Compression.GZIP: ["gzip -d"], Compression.NONE: []}
#: An archive names owners and tablespaces whatever pg_dump was told. pg_restore leaves its end unread, by
#: which the program before it would fail: `cat` reads it.
_AS_SQL = {
    Format.SQL: [],
    Format.TAR: ["(pg_restore --no-owner --no-tablespaces -f - && cat >/dev/null)"],
}

_FIRST_WITH_TRANSACTION_TIMEOUT = 17


@app.command("list")
def list_backups(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The newest backups first.

    Example: pgferry backups list --project acme
    """
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
def show(backup_id: BackupId, as_json: AsJson = False) -> None:
    """Everything about one backup.

    Example: pgferry backups show 0a4c8f5e-7c56-4be2-8a02-5d7d1d4f9e11 --json
    """
    backup = asdict(finished(_find(backup_id)))
    if as_json:
        show_json(backup)
    else:
        show_fields(backup)


@app.command()
def fetch(
    backup_id: BackupId,
    to: Annotated[Path, typer.Option("--to", help="A new or empty folder.", file_okay=False)],
) -> None:
    """Bring manifest and parts back from the chat, check them, and write SHA256SUMS.

    Example: pgferry backups fetch 0a4c8f5e-7c56-4be2-8a02-5d7d1d4f9e11 --to /restore/acme

    From there on only standard tools are needed; the command prints them.
    """
    manifest = finished(_fetch(backup_id, to))
    parts, size = counted(len(manifest.parts), "part"), size_of(manifest.dump.stored.size_bytes)
    typer.echo(f"{parts}, {size}, checked, in {to}", err=True)
    typer.echo(restore_lines(manifest, to))
    typer.echo(note_for_older_servers(manifest.dump.client_version), err=True, nl=False)


def restore_lines(manifest: Manifest, folder: Path) -> str:
    """The standard commands that restore this backup into an empty database.

    They are one list of `&&`: psql would commit what it got of a stream whose parts are not right.
    """
    steps = [
        "cat part-*",
        *(["age -d -i KEY_FILE"] if manifest.dump.encryption else []),
        *_DECOMPRESS[manifest.dump.compression],
        *_AS_SQL[manifest.dump.format],
        'psql -X -v ON_ERROR_STOP=1 --single-transaction "$TARGET_URL"',
    ]
    return f"cd {shlex.quote(str(folder))} &&\nsha256sum -c SHA256SUMS &&\n" + " | ".join(steps)


def note_for_older_servers(client_version: str) -> str:
    """What to add for a server that does not know each setting in the header of this client's dump."""
    if int(client_version.split(".", maxsplit=1)[0]) < _FIRST_WITH_TRANSACTION_TIMEOUT:
        return ""
    return (
        f"Into a server older than PostgreSQL {_FIRST_WITH_TRANSACTION_TIMEOUT} put this before psql: "
        "sed '1,25{/^SET transaction_timeout = 0;$/d}' |\n"
    )


async def _list(project: str | None, limit: int) -> list[Backup]:
    async with control_plane() as database, database.session() as session:
        return await session.backups.list(project_id=project, limit=limit)


async def _find(backup_id: UUID) -> Backup:
    async with control_plane() as database, database.session() as session:
        backup = await session.backups.find(backup_id)
    if backup is None:
        raise CannotDo(f"no backup {backup_id}")
    return backup


async def _fetch(backup_id: UUID, to: Path) -> Manifest:
    from cli.fetch import fetch_backup  # noqa: PLC0415 - see the module's docstring

    settings = settings_or_exit(FetchSettings)
    return await fetch_backup(settings, await _find(backup_id), to)
