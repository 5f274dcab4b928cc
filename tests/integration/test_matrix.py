"""Every format, compression, encryption and number of parts, the whole way: dumped, sent, fetched, restored.

What restores is what `pgferry backups fetch` prints, typed into a shell; the use cases run in this process.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import asyncpg
import pytest

from cli.backups import restore_lines
from cli.fetch import Fetch
from sandbox.compare import compare_schemas
from sandbox.postgres import SUPERUSER, newest_bin_directory
from sandbox.stack import allow_dump
from sandbox.tenants import create_small_tenant
from services.uploader.lane import Lane
from services.uploader.sender import Sender
from services.uploader.upload import Upload
from shared.contracts.job import Compression, Format, StageGroup
from shared.contracts.manifest import Manifest
from shared.runtime.signing import MANIFEST, Signer
from shared.runtime.worker import Progress
from shared.storage.database import open_database
from shared.telegram.client import open_telegram
from tests.conftest import BOT_TOKEN
from tests.integration.export_plant import UNUSUAL, Plant, plant_on, url_as
from tests.integration.jobs_in import claim, copied_database
from tests.integration.upload_plant import NO_RULE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path
    from uuid import UUID

    from sandbox.bot_api.process import BotApi
    from sandbox.postgres import PostgresServer

#: The client silences the library when it is opened; pytest undoes that after each test.
pytestmark = pytest.mark.filterwarnings("ignore:.*retry_after.*:telegram.warnings.PTBDeprecationWarning")

SIGNING_KEY = "a signing key of the tests, long enough to be one"
CLEAR = {"PGFERRY_AGE_RECIPIENTS": "", "PGFERRY_ALLOW_UNENCRYPTED": "true"}
MANY = {"PGFERRY_PART_SIZE_BYTES": "65536"}


PATH = f"{newest_bin_directory()}:{os.defpath}"
OWNERS = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'tenant_demo'"


@dataclass(frozen=True, slots=True)
class Copy:
    differences: Sequence[str]
    rows: int
    owners: set[str]


@dataclass(frozen=True, slots=True)
class Ferry:
    """An exporter and an uploader around one tenant, and an empty database for its copies."""

    plant: Plant
    upload: Upload
    target_url: str

    async def stored(self, options: dict[str, str], settings: dict[str, str]) -> UUID:
        """Ask, dump and send; returns the backup's id."""
        await self.plant.attempt(await self.plant.claim("demo", **options), **settings)
        held = await claim(self.upload.database, StageGroup.UPLOAD)
        assert held is not None
        await self.upload(held, Progress())
        async with self.upload.database.session() as session:
            job = await session.jobs.find(held.job_id)
        assert job is not None
        assert job.backup_id is not None
        return job.backup_id

    async def fetched(self, backup_id: UUID, folder: Path) -> Manifest:
        """As `pgferry backups fetch` does."""
        async with self.upload.database.session() as session:
            backup = await session.backups.find(backup_id)
        assert backup is not None
        manifest = await Fetch(self.upload.sender.telegram, self.upload.signer)(backup, [], folder)
        assert isinstance(manifest, Manifest)
        return manifest

    async def restored(self, commands: str) -> None:
        """Type what was printed, with the key's file filled in."""
        key = self.plant.folder / "key"
        key.write_text(str(self.plant.identity), encoding="ascii")
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", "set -o pipefail; " + commands.replace("KEY_FILE", str(key))),
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", "TARGET_URL": self.target_url},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert (process.returncode, said) == (0, b"")

    async def copied(self) -> Copy:
        """Compare the copy with the source, and remove it."""
        target = await asyncpg.connect(self.target_url)
        comparison = await compare_schemas(self.plant.owner, target, schema="tenant_demo")
        owners = {owner for (owner,) in await target.fetch(OWNERS)}
        await target.execute("DROP SCHEMA tenant_demo CASCADE")
        await target.close()
        return Copy(comparison.differences, comparison.rows, owners)


@pytest.fixture(scope="module")
async def target_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    async with copied_database(postgres_server, "template1") as url:
        yield url


@pytest.fixture(scope="module")
async def ferry(
    postgres_server: PostgresServer,
    control_plane_template: str,
    role_passwords: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    target_url: str,
    bot_api: BotApi,
    unused_chats: Iterator[int],
) -> AsyncIterator[Ferry]:
    async with (
        copied_database(postgres_server, control_plane_template) as home,
        plant_on(home, tmp_path_factory.mktemp("matrix"), role_passwords) as plant,
        open_database(url_as(home, "pgferry_uploader", role_passwords["uploader"]), name="test") as database,
        open_telegram(BOT_TOKEN, bot_api.url) as telegram,
    ):
        await create_small_tenant(plant.owner, slug="demo", rows=3000)
        await plant.owner.execute(UNUSUAL)
        await plant.owner.execute("ALTER TABLE tenant_demo.notes OWNER TO pgferry_gateway")
        await allow_dump(plant.owner, "tenant_demo")
        await plant.add_project("demo")
        await telegram.introduce()
        sender = Sender(database, telegram, [next(unused_chats)], Lane(database, NO_RULE))
        upload = Upload(database, plant.spool, sender, Signer.of([SIGNING_KEY], purpose=MANIFEST))
        yield Ferry(plant, upload, target_url)


@pytest.mark.parametrize(
    ("form", "compression", "encryption", "parts"),
    list(product(Format, Compression, ["age", "clear"], ["many", "one"])),
    ids=str,
)
async def test_a_backup_of_any_kind_is_restored_by_the_printed_commands(
    ferry: Ferry, tmp_path: Path, form: Format, compression: Compression, encryption: str, parts: str
) -> None:
    """The copy is equal to the source and its restorer's, and the whole stream is called what it is."""
    settings = (CLEAR if encryption == "clear" else {}) | (MANY if parts == "many" else {})

    backup_id = await ferry.stored({"format": form.value, "compression": compression.value}, settings)
    manifest = await ferry.fetched(backup_id, tmp_path / "restore here")
    await ferry.restored(restore_lines(manifest, tmp_path / "restore here"))

    assert await ferry.copied() == Copy((), manifest.dump.rows, {SUPERUSER})
    assert manifest.dump.rows > 9000
    assert (len(manifest.parts) > 1) is (parts == "many")
    ending = ENDINGS[form, compression] + (".age" if encryption == "age" else "")
    assert manifest.filename.endswith(ending)


ENDINGS = {
    (form, compression): f".{form.value}{ending}"
    for form in Format
    for compression, ending in zip(Compression, (".zst", ".gz", ""), strict=True)
}
