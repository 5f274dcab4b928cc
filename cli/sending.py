"""`pgferry backups send` and `record`: an operator's files into the chat, and messages into the record.

Only a command that runs loads the Telegram library.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from cli.backups import AsJson
from cli.output import counted, show_fields, show_json, size_of, text_of
from cli.run import DONE_IN_PART, fail, finished, refuse_options, settings_or_exit, user
from cli.settings import SendSettings
from shared.contracts.backup import BackupType, FileOptions
from shared.contracts.manifest import SentPart
from shared.runtime import logs
from shared.storage.backups import Backup

if TYPE_CHECKING:
    from cli.library import Item

#: What the bot or the chat must be given, rather than the file.
_REFUSALS = {"telegram_bad_request", "telegram_forbidden"}

Project = Annotated[str, typer.Option(help="The project's id in control_plane.projects.")]
Type = Annotated[BackupType, typer.Option(help="The newest of each type is kept, however old.")]
Caption = Annotated[str | None, typer.Option(help="Shown with every document in the chat.")]
Filename = Annotated[str | None, typer.Option(help="Instead of the file's own name.")]
StoragePath = Annotated[str | None, typer.Option(help="A label like invoices/2026.")]
Expires = Annotated[int | None, typer.Option(help="Days, then uploaders delete it, unless it is the newest.")]


def send(
    files: Annotated[list[Path], typer.Argument(help="Sent one after the other, in this order.")],
    project: Project,
    type: Type = BackupType.STORAGE,  # noqa: A002
    caption: Caption = None,
    filename: Filename = None,
    storage_path: StoragePath = None,
    expires: Expires = None,
    no_record: Annotated[
        bool,
        typer.Option(
            "--no-record",
            help="Only send: nothing lists, expires, fetches or deletes it; keep the ids that are printed.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send files to the chat as they are, and record each as a backup; encrypt them before if they need it.

    A line for each file. Exits with 1 if none was sent, with 3 if some were.

    Example: pgferry backups send app.log.gz --project acme --type logs --expires 90
    """
    options = _options(project, type, caption, filename, storage_path, expires)
    if filename and len(files) > 1:
        fail("--filename names one file", code=2)
    items = finished(_send(files, options, record=not no_record, as_json=as_json))
    failed = sum(item.error is not None for item in items)
    if failed:
        refused = any(item.error and item.error.code in _REFUSALS for item in items)
        fail(
            f"not sent: {counted(failed, 'file')} of {len(items)}"
            + ("; pgferry doctor telegram says what the bot may not do" if refused else ""),
            code=1 if failed == len(items) else DONE_IN_PART,
        )


def record(
    project: Project,
    chat_id: Annotated[int, typer.Option(help="The chat that the message is in.")],
    message_id: Annotated[int, typer.Option(min=1, help="The message that holds the document.")],
    file_id: Annotated[str, typer.Option(help="The document's file id, as this bot was told it.")],
    type: Type = BackupType.STORAGE,  # noqa: A002
    caption: Caption = None,
    filename: Filename = None,
    storage_path: StoragePath = None,
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Record a document that is in the chat already; it is fetched once, for its size and hash.

    That the message holds this file is your word: a bot cannot read a message.

    It has no manifest, so a catalogue rebuild does not bring it back.

    Example: pgferry backups record --project acme --chat-id -1001234567890 --message-id 7 --file-id BQACAgQ…
    """
    options = _options(project, type, caption, filename, storage_path, expires)
    backup = asdict(finished(_record(options, chat_id=chat_id, message_id=message_id, file_id=file_id)))
    if as_json:
        show_json(backup)
    else:
        show_fields(backup)


def _options(
    project: str,
    type: BackupType,  # noqa: A002
    caption: str | None,
    filename: str | None,
    storage_path: str | None,
    expires: int | None,
) -> FileOptions:
    try:
        return FileOptions(
            project_id=project,
            type=type,
            caption=caption,
            filename=filename,
            storage_path=storage_path,
            expires_in_days=expires,
        )
    except ValidationError as error:
        refuse_options(error, project_id="--project", expires_in_days="--expires")


async def _send(
    files: Sequence[Path], options: FileOptions, *, record: bool, as_json: bool
) -> "Sequence[Item]":
    """What became of each; what was sent is told also when it is stopped."""
    from cli.library import open_library  # noqa: PLC0415 - see the module's docstring

    items: list[Item] = []
    async with open_library(user(), _settings()) as library:
        try:
            async for item in library.send_each(files, record=record, **_given(options)):
                items.append(item)
                if not as_json:
                    typer.echo(text_of(_line(item)))
        finally:
            if as_json:
                show_json([_public(item) for item in items])
    return items


async def _record(options: FileOptions, *, chat_id: int, message_id: int, file_id: str) -> Backup:
    from cli.library import open_library  # noqa: PLC0415 - see the module's docstring

    async with open_library(user(), _settings()) as library:
        return await library.record(
            chat_id=chat_id, message_id=message_id, file_id=file_id, **_given(options)
        )


def _settings() -> SendSettings:
    """What is waited for is said on standard error."""
    settings = settings_or_exit(SendSettings)
    logs.configure(service="pgferry", level="WARNING", secrets=settings.secrets())
    return settings


def _given(options: FileOptions) -> dict[str, Any]:
    return {"project": options.project_id, **options.model_dump(exclude={"project_id"})}


def _line(item: "Item") -> str:
    """`stored <backup> <file> …`, `sent <file> … <chat>/<message> <file id>`, or `failed <file> <why>`."""
    if item.sent is None:
        places = "".join(f" {_place(part)}" for part in item.left)
        return f"failed  {item.name}  {item.error}{places}"
    about = f"{item.sent.filename}  {size_of(item.sent.size_bytes)}"
    if item.sent.backup_id:
        return f"stored  {item.sent.backup_id}  {about}  {counted(len(item.sent.parts), 'part')}"
    return f"sent  {about}  " + " ".join(_place(part) for part in item.sent.parts)


def _place(part: SentPart) -> str:
    return f"{part.chat_id}/{part.message_id} {part.file_id}"


def _public(item: "Item") -> dict[str, object]:
    if item.sent is None:
        error = {"code": item.error.code, "message": item.error.sentence} if item.error else None
        left = [part.model_dump() for part in item.left]
        return {"file": item.name, "outcome": "failed", "error": error, "parts": left}
    sent = item.sent
    return {
        "file": item.name,
        "outcome": "stored" if sent.backup_id else "sent",
        "backup_id": sent.backup_id,
        "filename": sent.filename,
        "size_bytes": sent.size_bytes,
        "sha256": sent.sha256,
        "parts": [part.model_dump() for part in sent.parts],
        "manifest": sent.manifest.model_dump() if sent.manifest else None,
    }
