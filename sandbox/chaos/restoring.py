"""Brings backups back from the chat's own files with standard tools, and compares them with their source."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from sandbox.chaos.servers import Servers, connected
from sandbox.compare import compare_schemas
from sandbox.restore import Fetched, RestoreFailed
from shared.contracts.job import Compression, Format
from shared.contracts.manifest import Manifest
from shared.storage.spool import part_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from sandbox.bot_api.store import StoredMessage
    from sandbox.stack import Stack

_DECOMPRESS: Final = {Compression.ZSTD: "zstd -d", Compression.GZIP: "gzip -d", Compression.NONE: None}


@dataclass(frozen=True, slots=True)
class Restoring:
    servers: Servers
    stack: Stack

    async def sample(
        self,
        manifests: Mapping[UUID, Manifest | str],
        chat: Mapping[int, StoredMessage],
        *,
        seed: int,
        count: int,
    ) -> dict[UUID, tuple[str, ...]]:
        """What differs, by backup; backups without an authentic manifest cannot be restored."""
        good = [manifest for manifest in manifests.values() if isinstance(manifest, Manifest)]
        good.sort(key=lambda manifest: (manifest.dump.schema_name, manifest.created_at))
        chosen = Random(seed).sample(good, min(count, len(good)))  # noqa: S311 - to be repeated
        return {manifest.backup_id: await self._differences(manifest, chat) for manifest in chosen}

    async def _differences(self, manifest: Manifest, chat: Mapping[int, StoredMessage]) -> tuple[str, ...]:
        database = f"chaos_restored_{secrets.token_hex(4)}"
        await self.servers.execute(f"CREATE DATABASE {database} STRATEGY file_copy")
        try:
            fetched = self._fetched(manifest, chat)
            await asyncio.to_thread(fetched.restore_into, self.servers.postgres.url(database))
            return await self._compared(database, manifest.dump.schema_name)
        except (RestoreFailed, OSError, KeyError) as error:
            return (f"cannot be restored: {error}",)
        finally:
            await self.servers.execute(f"DROP DATABASE {database} WITH (FORCE)")

    async def _compared(self, database: str, schema: str) -> tuple[str, ...]:
        url = self.servers.postgres.url(database)
        async with connected(self.stack.database_url) as source, connected(url) as copy:
            return (await compare_schemas(source, copy, schema=schema)).differences

    def _fetched(self, manifest: Manifest, chat: Mapping[int, StoredMessage]) -> Fetched:
        """The parts in a folder of their own, as `pgferry backups fetch` would leave them."""
        folder = Path(tempfile.mkdtemp(prefix="restored-", dir=self.stack.directory))
        for part in manifest.parts:
            shutil.copyfile(self._blob(chat[part.message_id]), folder / part_name(part.index))
        identity = self.stack.directory / "identity.txt"
        identity.write_text(f"{self.stack.keys.identity}\n", encoding="ascii")
        return Fetched(
            folder,
            identity,
            decompress=_DECOMPRESS[manifest.dump.compression],
            is_archive=manifest.dump.format is Format.TAR,
        )

    def _blob(self, message: StoredMessage) -> Path:
        return self.servers.bot_api_directory / "blobs" / message.sha256
