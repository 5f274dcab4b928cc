"""Brings a backup back from the chat into a folder: manifest, parts, SHA256SUMS. Of an adopted message, which
has no manifest, the database says the hash.

`pgferry backups fetch` calls it. Nothing gets its final name before its size and hash were checked.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.run import CannotDo
from cli.settings import FetchSettings
from shared.contracts.errors import TemporaryError, Unavailable
from shared.contracts.manifest import AnyManifest, FileManifest, SentPart, Stream, manifest_of
from shared.runtime.signing import MANIFEST, Signer
from shared.storage.backups import Backup
from shared.storage.parts import PartRow
from shared.storage.spool import MANIFEST_FILE, part_name
from shared.telegram.client import TelegramChatStore, telegram_of

SUMS_FILE = "SHA256SUMS"
_STAGING = ".staging"
_OURS = re.compile(rf"({re.escape(MANIFEST_FILE)}|{SUMS_FILE}|part-\d+)({re.escape(_STAGING)})?")
_DOWNLOADS_AT_ONCE = 4
_ATTEMPTS = 3
_RETRY_SECONDS = 1.0


async def fetch_backup(
    settings: FetchSettings, backup: Backup, rows: Sequence[PartRow], folder: Path
) -> AnyManifest:
    """Raises CannotDo, NotAuthentic, Fatal or a Failure; parts that came back whole stay.

    `rows`: of its parts, for a backup that has no manifest.
    """
    signer = Signer.of(settings.signing_secrets, purpose=MANIFEST)
    async with telegram_of(settings) as telegram:
        await telegram.introduce()
        _require_sender(telegram, backup)
        return await Fetch(telegram, signer)(backup, rows, folder)


def _require_sender(telegram: TelegramChatStore, backup: Backup) -> None:
    if telegram.bot_id != backup.bot_id:
        raise CannotDo(
            f"bot {backup.bot_id} sent this backup and TELEGRAM_BOT_TOKEN is bot {telegram.bot_id}'s: "
            "Telegram gives a document to the bot that sent it, and to no other"
        )


@dataclass(frozen=True, slots=True)
class Fetch:
    telegram: TelegramChatStore
    signer: Signer

    async def __call__(self, backup: Backup, rows: Sequence[PartRow], folder: Path) -> AnyManifest:
        _prepare(folder)
        manifest = _adopted(backup, rows, folder) if backup.adopted else await self._manifest(backup, folder)
        gate = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
        await asyncio.gather(*(self._part(part, folder, gate) for part in manifest.parts))
        paths = [folder / part_name(part.index) for part in manifest.parts]
        await asyncio.to_thread(_require_whole, manifest, paths)
        _write_sums(folder, manifest)
        return manifest

    async def _manifest(self, backup: Backup, folder: Path) -> AnyManifest:
        """The manifest, if it is the one that was recorded and one of our keys signed it."""
        if backup.manifest_file_id is None or backup.manifest_sha256 is None:
            raise CannotDo(f"backup {backup.id} was recorded without a manifest")
        path = folder / MANIFEST_FILE
        if path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != backup.manifest_sha256:
                raise _another(folder)
            return self._verified(content)
        if _brought(folder):
            raise _another(folder)
        with _staged(path) as staging:
            altered = "the manifest in the chat is not the one that was recorded"
            await self._download(_Wanted(backup.manifest_file_id, backup.manifest_sha256, altered), staging)
            return self._verified(staging.read_bytes())

    def _verified(self, content: bytes) -> AnyManifest:
        document = json.loads(content)
        self.signer.verify(document)
        return manifest_of(document)

    async def _part(self, part: SentPart, folder: Path, gate: asyncio.Semaphore) -> None:
        """Unless an earlier attempt at this folder has brought it."""
        path = folder / part_name(part.index)
        async with gate:
            if path.exists() and await asyncio.to_thread(_sha256_of, [path]) == part.sha256:
                return
            with _staged(path) as staging:
                altered = f"part {part.index} came back altered: its hash is not the manifest's"
                wanted = _Wanted(part.file_id, part.sha256, altered, part.size_bytes)
                await self._download(wanted, staging)

    async def _download(self, wanted: "_Wanted", target: Path) -> None:
        """Try again what may pass; the last attempt's error is the caller's."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                sha256 = await self.telegram.fetch(wanted.file_id, target, size_bytes=wanted.size_bytes)
                if sha256 == wanted.sha256:
                    return
                failure: Exception = CannotDo(wanted.altered)
            except (TemporaryError, Unavailable) as error:
                failure = error
            if not left:
                raise failure
            await asyncio.sleep(_RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A document as it must come back; `altered` says that it did not."""

    file_id: str
    sha256: str
    altered: str
    size_bytes: int | None = None


def _another(folder: Path) -> CannotDo:
    return CannotDo(f"{folder} holds another backup")


def _adopted(backup: Backup, rows: Sequence[PartRow], folder: Path) -> FileManifest:
    """What its manifest would say; it is written nowhere, for nobody has signed it."""
    _require_no_other(backup, folder)
    parts = [SentPart(**row.part.model_dump(), **asdict(row.sent)) for row in rows if row.sent]
    if len(parts) != backup.part_count:
        raise CannotDo(f"backup {backup.id} was adopted, and where its document is has been forgotten")
    return FileManifest(
        backup_id=backup.id,
        created_at=backup.created_at,
        expires_at=backup.expires_at,
        bot_id=backup.bot_id,
        filename=backup.filename,
        caption=backup.caption,
        storage_path=backup.storage_path,
        project_id=backup.project_id,
        stored=Stream(size_bytes=backup.size_bytes, sha256=backup.sha256),
        parts=tuple(parts),
    )


def _brought(folder: Path) -> list[Path]:
    """The documents of an earlier attempt; a manifest comes first."""
    return [path for path in folder.iterdir() if path.name != SUMS_FILE and path.suffix != _STAGING]


def _require_no_other(backup: Backup, folder: Path) -> None:
    """Of an adopted one there is the document alone, and no manifest says whose parts are there."""
    for path in _brought(folder):
        if path.name != part_name(0) or _sha256_of([path]) != backup.sha256:
            raise _another(folder)


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Where to write; what is there gets its name when the block ends well, else it is removed."""
    staging = target.with_name(target.name + _STAGING)
    try:
        yield staging
        staging.rename(target)
    finally:
        staging.unlink(missing_ok=True)


def _prepare(folder: Path) -> None:
    """A folder that is empty, or holds what an earlier attempt brought."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(not _OURS.fullmatch(path.name) for path in folder.iterdir()):
        raise CannotDo(f"{folder} holds something else: name an empty folder, or one to go on with")


def _require_whole(manifest: AnyManifest, paths: Iterable[Path]) -> None:
    if _sha256_of(paths) != manifest.stored.sha256:
        raise CannotDo("the parts are right but do not make the whole that the manifest names")


def _sha256_of(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1024 * 1024):
                digest.update(piece)
    return digest.hexdigest()


def _write_sums(folder: Path, manifest: AnyManifest) -> None:
    """In sha256sum's format, parts in order."""
    lines = [f"{part.sha256}  {part_name(part.index)}\n" for part in manifest.parts]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="ascii")
