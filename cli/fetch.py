"""Brings a backup back from the chat into a folder: manifest, parts, SHA256SUMS.

Nothing gets its final name before its size and hash were checked.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cli.run import CannotDo
from shared.contracts.manifest import Manifest, SentPart
from shared.runtime.signing import Signer
from shared.storage.backups import Backup
from shared.storage.spool import MANIFEST_FILE, part_name
from shared.telegram.client import TelegramChatStore

SUMS_FILE = "SHA256SUMS"
_STAGING = ".staging"
_DOWNLOADS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Fetched:
    manifest: Manifest
    parts: list[Path]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Fetch:
    telegram: TelegramChatStore
    signer: Signer

    async def __call__(self, backup: Backup, folder: Path) -> Fetched:
        """Raises CannotDo, NotAuthentic, or a Failure; whatever was fetched whole stays."""
        _prepare(folder)
        manifest = await self._manifest(backup, folder)
        gate = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
        await asyncio.gather(*(self._part(part, folder, gate) for part in manifest.parts))
        paths = [folder / part_name(part.index) for part in manifest.parts]
        await asyncio.to_thread(_require_whole, manifest, paths)
        _write_sums(folder, manifest)
        return Fetched(manifest, paths, manifest.dump.stored.size_bytes)

    async def _manifest(self, backup: Backup, folder: Path) -> Manifest:
        """The manifest, if it is the one that was recorded and one of our keys signed it."""
        if backup.manifest_file_id is None:
            raise CannotDo(f"backup {backup.id} was recorded without a manifest")
        target = folder / MANIFEST_FILE
        staging = target.with_suffix(_STAGING)
        sha256 = await self.telegram.fetch(backup.manifest_file_id, staging)
        if sha256 != backup.manifest_sha256:
            raise CannotDo("the manifest in the chat is not the one that was recorded")
        document = json.loads(staging.read_bytes())
        self.signer.verify(document)
        staging.rename(target)
        return Manifest.model_validate(document)

    async def _part(self, part: SentPart, folder: Path, gate: asyncio.Semaphore) -> None:
        target = folder / part_name(part.index)
        staging = target.with_suffix(_STAGING)
        async with gate:
            sha256 = await self.telegram.fetch(part.file_id, staging, size_bytes=part.size_bytes)
        if sha256 != part.sha256:
            raise CannotDo(f"part {part.index} came back altered: its hash is not the manifest's")
        staging.rename(target)


def _prepare(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CannotDo(f"{folder} is not empty")


def _require_whole(manifest: Manifest, paths: Iterable[Path]) -> None:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1024 * 1024):
                digest.update(piece)
    if digest.hexdigest() != manifest.dump.stored.sha256:
        raise CannotDo("the parts are right but do not make the whole that the manifest names")


def _write_sums(folder: Path, manifest: Manifest) -> None:
    """In sha256sum's format, parts in order."""
    lines = [f"{part.sha256}  {part_name(part.index)}\n" for part in manifest.parts]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="ascii")
