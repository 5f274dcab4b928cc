"""`pgferry backups …`: what is in the chat, and how to get it back.

Only `fetch` loads the Telegram library; `cli.sending` and `cli.records` have the commands that change.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.output import counted, show_fields, show_json, show_table, size_of
from cli.run import CannotDo, control_plane, finished, settings_or_exit, user
from cli.settings import FetchSettings
from shared.contracts.backup import BackupStatus, BackupType
from shared.contracts.job import Compression, Format
from shared.contracts.manifest import AnyManifest, DumpRecord, Manifest
from shared.storage.backups import Backup, Filters
from shared.storage.expiry import Due, Expiry
from shared.storage.parts import PartRow

app = typer.Typer(
    no_args_is_help=True, help="List backups, bring one back from the chat, send files, end what is over."
)

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


def _moment(text: str) -> datetime:
    """A date, or a date and a time; typer's own reading takes `20261101` for seconds since 1970."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no date; write 2026-11-01, 2026-11-01T18:30 or 2026-11-01T18:30+02:00"
        ) from None


@app.command("list")
def list_backups(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    type: Annotated[BackupType | None, typer.Option(help="Only these.")] = None,  # noqa: A002
    status: Annotated[
        BackupStatus | None, typer.Option(metavar="<status>", help=f"Only these: {', '.join(BackupStatus)}.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(parser=_moment, metavar="<date>", help="Made then or later, UTC.")
    ] = None,
    before: Annotated[
        datetime | None, typer.Option(parser=_moment, metavar="<date>", help="Made before then, UTC.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The newest backups first.

    Example: pgferry backups list --project acme --status stored --since 2026-11-01
    """
    filters = Filters(project, type, status, since, before)
    backups = finished(_list(filters, limit))
    if as_json:
        show_json([asdict(backup) for backup in backups])
        return
    show_table(
        ("BACKUP", "PROJECT", "TYPE", "STATUS", "SIZE", "PARTS", "TABLES", "ROWS", "CREATED", "EXPIRES"),
        [
            (
                backup.id,
                backup.project_id,
                backup.type,
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
    to: Annotated[
        Path,
        typer.Option("--to", help="A new or empty folder, or one that a fetch has begun.", file_okay=False),
    ],
) -> None:
    """Bring manifest and parts back from the chat, check them, and write SHA256SUMS.

    Example: pgferry backups fetch 0a4c8f5e-7c56-4be2-8a02-5d7d1d4f9e11 --to /restore/acme

    From there on only standard tools are needed; the command prints them.
    """
    manifest = finished(_fetch(backup_id, to))
    parts, size = counted(len(manifest.parts), "part"), size_of(manifest.stored.size_bytes)
    typer.echo(f"{parts}, {size}, checked, in {to}", err=True)
    typer.echo(restore_lines(manifest, to))
    if isinstance(manifest, Manifest):
        typer.echo(note_for_older_servers(manifest.dump.client_version), err=True, nl=False)


@app.command()
def expire(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """End the backups whose time is over; an uploader then takes their documents out of the chat.

    Uploaders do the same by themselves. The newest good one of each project and type is kept, however old.

    Example: pgferry backups expire --dry-run
    """
    due = finished(_expire(project, dry_run=dry_run))
    rows = [asdict(one) | {"why": _why(one)} for one in due]
    if as_json:
        show_json(rows)
    else:
        show_table(
            ("BACKUP", "PROJECT", "CREATED", "EXPIRED", "GOES", "WHY"), [tuple(row.values()) for row in rows]
        )


def _why(due: Due) -> str:
    return "its time is over" if due.goes else "the newest good one of its project and type is kept"


async def _expire(project: str | None, *, dry_run: bool) -> Sequence[Due]:
    async with control_plane() as database:
        expiry = Expiry(database, actor=user())
        marked: list[Due] = []
        while not dry_run and (some := await expiry.expire(project)):
            marked += some
        due = await expiry.due(project)
        return due if dry_run else [*marked, *(one for one in due if not one.goes)]


def restore_lines(manifest: AnyManifest, folder: Path) -> str:
    """The standard commands that restore this backup into an empty database, or put the file together.

    They are one list of `&&`: psql would commit what it got of a stream whose parts are not right.
    """
    if isinstance(manifest, Manifest):
        last = " | ".join(_restoring(manifest.dump))
    else:
        last = f"cat part-* > {shlex.quote(manifest.filename)}"
    return f"cd {shlex.quote(str(folder))} &&\nsha256sum -c SHA256SUMS &&\n{last}"


def _restoring(dump: DumpRecord) -> list[str]:
    return [
        "cat part-*",
        *(["age -d -i KEY_FILE"] if dump.encryption else []),
        *_DECOMPRESS[dump.compression],
        *_AS_SQL[dump.format],
        'psql -X -v ON_ERROR_STOP=1 --single-transaction "$TARGET_URL"',
    ]


def note_for_older_servers(client_version: str) -> str:
    """What to add for a server that does not know each setting in the header of this client's dump."""
    if int(client_version.split(".", maxsplit=1)[0]) < _FIRST_WITH_TRANSACTION_TIMEOUT:
        return ""
    return (
        f"Into a server older than PostgreSQL {_FIRST_WITH_TRANSACTION_TIMEOUT} put this before psql: "
        "sed '1,25{/^SET transaction_timeout = 0;$/d}' |\n"
    )


async def _list(filters: Filters, limit: int) -> list[Backup]:
    async with control_plane() as database, database.session() as session:
        return await session.backups.list(filters, limit=limit)


async def _parts(backup_id: UUID) -> Sequence[PartRow]:
    async with control_plane() as database, database.session() as session:
        return await session.parts.of_backup(backup_id)


async def _find(backup_id: UUID) -> Backup:
    async with control_plane() as database, database.session() as session:
        backup = await session.backups.find(backup_id)
    if backup is None:
        raise CannotDo(f"no backup {backup_id}; pgferry backups list shows those that are recorded")
    return backup


async def _fetch(backup_id: UUID, to: Path) -> AnyManifest:
    from cli.fetch import fetch_backup  # noqa: PLC0415 - see the module's docstring

    settings = settings_or_exit(FetchSettings)
    backup = await _find(backup_id)
    if backup.status != "stored":
        raise CannotDo(f"backup {backup_id} is {backup.status}: its documents are taken out of the chat")
    return await fetch_backup(settings, backup, await _parts(backup_id), to)
