"""The command line with workers: waiting for an export, and bringing a backup back from the chat."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from uuid import uuid4

import asyncpg
import pytest

from sandbox.bot_api.knobs import DOWNLOAD, REFUSALS, Loss
from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from sandbox.compare import compare_schemas
from sandbox.postgres import PostgresServer
from sandbox.rabbitmq import Node
from sandbox.stack import Stack
from sandbox.tenants import create_small_tenant
from tests.e2e import steps
from tests.e2e.commands import Said, pgferry
from tests.e2e.steps import QUICK

TOKENS = (
    "7000001:AAE-test-token-of-nobody-0123456789abcd",
    "7000002:AAE-test-token-of-nobody-else-0123456789",
)
CHAT_ID = -1001234567890


@dataclass(frozen=True, slots=True)
class Ferry:
    """A stack with one exporter and one uploader, and a backup that the command line asked for."""

    stack: Stack
    bot_api: BotApi
    exported: Said

    @property
    def backup_id(self) -> str:
        return str(self.exported.json()["backup_id"])

    async def run(self, *arguments: str, **settings: str) -> Said:
        return await pgferry(*arguments, **self.stack.environment("cli") | settings)

    async def fetch(self, folder: Path, **settings: str) -> Said:
        return await self.run("backups", "fetch", self.backup_id, "--to", str(folder), **settings)

    @property
    def asked_for_files(self) -> int:
        return sum(self.bot_api.calls().get("getFile", {}).values())

    def blob(self, name: str) -> Path:
        """Where the chat keeps the one document whose name contains this."""
        (message,) = [message for message in self.bot_api.messages(CHAT_ID) if name in message.file_name]
        return self.stack.directory / "bot-api" / "blobs" / message.sha256


@pytest.fixture(scope="module")
async def module_database_url(
    postgres_server: PostgresServer, control_plane_template: str
) -> AsyncIterator[str]:
    """A control plane for all tests of this file."""
    name = f"test-{token_hex(6)}"
    owner = await asyncpg.connect(postgres_server.url())
    await owner.execute(f'CREATE DATABASE "{name}" TEMPLATE "{control_plane_template}"')
    yield postgres_server.url(name)
    await owner.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await owner.close()


@pytest.fixture(scope="module")
def module_vhost_url(rabbitmq_node: Node) -> str:
    """A vhost for all tests of this file."""
    vhost = f"test-{token_hex(6)}"
    rabbitmq_node.add_vhost(vhost)
    return rabbitmq_node.url(vhost)


@pytest.fixture(scope="module")
async def ferry(
    tmp_path_factory: pytest.TempPathFactory,
    module_database_url: str,
    module_vhost_url: str,
    role_passwords: dict[str, str],
) -> AsyncIterator[Ferry]:
    """One small tenant in three parts, exported by `pgferry export --wait`."""
    directory = tmp_path_factory.mktemp("cli")
    bot_api = BotApi(directory / "bot-api", tokens=TOKENS, chats=[CHAT_ID], rules=Rules.none())
    with bot_api, _stack(directory, module_database_url, module_vhost_url, bot_api, role_passwords) as stack:
        workers = [
            stack.start("exporter", **QUICK, PGFERRY_PART_SIZE_BYTES=65536),
            stack.start("uploader", **QUICK),
        ]
        owner = await asyncpg.connect(module_database_url)
        await create_small_tenant(owner, slug="acme", rows=4000)
        await stack.add_project(owner, "acme", slug="acme")
        await owner.close()
        for worker in workers:
            worker.wait_ready()
        exported = await pgferry(
            *("export", "acme", "--wait", "--json", "--caption", "nightly ✓"), **stack.environment("cli")
        )
        yield Ferry(stack, bot_api, exported)


def _stack(
    directory: Path, database_url: str, amqp_url: str, bot_api: BotApi, role_passwords: dict[str, str]
) -> Stack:
    return Stack(
        directory=directory,
        database_url=database_url,
        amqp_url=amqp_url,
        telegram_api_url=bot_api.url,
        bot_token=TOKENS[0],
        chat_id=CHAT_ID,
        role_passwords=role_passwords,
    )


@contextmanager
def altered(file: Path) -> Iterator[None]:
    """Its last byte is another for the time of the block."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        yield
    finally:
        file.write_bytes(content)


async def test_an_export_is_waited_for(ferry: Ferry) -> None:
    """The finished job is the data; what happens on the way is said beside it."""
    assert ferry.exported.code == 0
    job = ferry.exported.json()
    assert (job["status"], job["stage"], job["options"]["caption"]) == ("completed", "stored", "nightly ✓")
    assert job["dump"]["rows"] == 12000
    said = ferry.exported.err.splitlines()
    assert (said[0], said[-1]) == (f"job {job['id']}: created", f"job {job['id']}: stored")


async def test_an_export_that_fails_ends_with_1(ferry: Ferry) -> None:
    """The job is shown as any other, and why it failed is the last sentence."""
    said = await ferry.run("export", "nobody", "--wait")

    assert said.code == 1
    fields = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert (fields["status"], fields["error_code"]) == ("failed", "unknown_project")
    assert fields["error_message"].startswith("No project 'nobody' in control_plane.projects")
    assert said.err.splitlines()[-1] == (
        f"pgferry: job {fields['id']} failed with unknown_project: {fields['error_message']}"
    )


async def test_backups_are_listed_and_shown(ferry: Ferry) -> None:
    """The same ids everywhere, none of them cut."""
    table, as_json, others, shown = await asyncio.gather(
        ferry.run("backups", "list"),
        ferry.run("backups", "list", "--project", "acme", "--json"),
        ferry.run("backups", "list", "--project", "other", "--json"),
        ferry.run("backups", "show", ferry.backup_id),
    )

    assert table.out.splitlines()[1].split()[:4] == [ferry.backup_id, "acme", "database", "stored"]
    (backup,) = as_json.json()
    assert (backup["id"], backup["row_count"], others.json()) == (ferry.backup_id, 12000, [])
    assert backup["created_at"].endswith("Z")
    fields = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert (fields["id"], fields["sha256"]) == (ferry.backup_id, backup["sha256"])


async def test_a_fetched_backup_is_restored_by_the_printed_commands(
    ferry: Ferry, tmp_path: Path, database_url: str
) -> None:
    """Zero-padded parts, manifest, sums; then nothing but what was printed, in a folder with a space.

    It restores nothing while a part is damaged: psql would commit what it got.
    """
    folder = tmp_path / "restore here"
    fetched = await ferry.fetch(folder)

    assert fetched.code == 0, fetched.err
    parts = [f"part-{index:05d}" for index in range(len(list(folder.glob("part-*"))))]
    assert len(parts) > 1
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "manifest.json", *parts]
    (tmp_path / "key.txt").write_text(ferry.stack.keys.identity + "\n")
    commands = fetched.out.replace("KEY_FILE", str(tmp_path / "key.txt"))
    with altered(folder / parts[1]):
        assert _typed(commands, TARGET_URL=database_url).returncode != 0
        assert await _differences(ferry.stack.database_url, database_url) != ()
    done = _typed(commands, TARGET_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(": OK")] == [f"{p}: OK" for p in parts]
    assert await _differences(ferry.stack.database_url, database_url) == ()


async def test_a_fetch_that_cannot_begin_is_one_sentence(ferry: Ferry, tmp_path: Path) -> None:
    """A folder in use, another key, another bot, an unknown backup: nothing is written."""
    (used := tmp_path / "used").mkdir()
    (used / "something").touch()
    new = tmp_path / "new"
    other_key = ferry.fetch(new, PGFERRY_SIGNING_KEY="k" * 40)
    other_bot = ferry.fetch(tmp_path / "never", TELEGRAM_BOT_TOKEN=TOKENS[1])
    unknown = ferry.run("backups", "fetch", str(uuid4()), "--to", str(tmp_path / "never"))

    said = await asyncio.gather(ferry.fetch(used), other_key, other_bot, unknown)

    assert [(one.code, one.out) for one in said] == [(1, "")] * 4
    assert said[0].sentence.startswith(f"{used} holds something else")
    assert "signed with a key that PGFERRY_SIGNING_KEY does not hold" in said[1].sentence
    assert "bot 7000001 sent this backup" in said[2].sentence
    assert said[3].sentence.startswith("no backup ")
    assert list(new.iterdir()) == []
    assert not (tmp_path / "never").exists()


async def test_what_was_altered_in_the_chat_gets_no_name(ferry: Ferry, tmp_path: Path) -> None:
    """A part's hash is the manifest's and the manifest's is the recorded one, or nothing is there."""
    with altered(ferry.blob(".p00001")):
        part = await ferry.fetch(tmp_path / "part")
    with altered(ferry.blob(".manifest")):
        manifest = await ferry.fetch(tmp_path / "manifest")

    assert (part.code, part.out, manifest.code, manifest.out) == (1, "", 1, "")
    assert part.sentence == "part 1 came back altered: its hash is not the manifest's"
    assert manifest.sentence == "the manifest in the chat is not the one that was recorded"
    left = {path.name for path in (tmp_path / "part").iterdir()}
    assert left.isdisjoint({"part-00001", "SHA256SUMS"})
    assert not [name for name in left if name.endswith(".staging")]
    assert list((tmp_path / "manifest").iterdir()) == []


async def test_a_fetch_goes_on_where_another_one_ended(ferry: Ferry, tmp_path: Path) -> None:
    """What is there and right is not asked for again; what is not right is replaced."""
    folder = tmp_path / "on"
    with altered(ferry.blob(".p00001")):
        assert (await ferry.fetch(folder)).code == 1
    (folder / "part-00001.staging").write_bytes(b"half")
    (folder / "part-00000").write_bytes(b"of a disk that lied")
    before = ferry.asked_for_files

    again = await ferry.fetch(folder)

    assert again.code == 0, again.err
    parts = sorted(folder.glob("part-*"))
    assert ferry.asked_for_files - before <= len(parts)  # no manifest
    assert {path.name for path in folder.iterdir()} == {
        "SHA256SUMS",
        "manifest.json",
        *(path.name for path in parts),
    }


async def test_a_folder_with_another_backup_is_not_gone_on_with(ferry: Ferry, tmp_path: Path) -> None:
    """Nothing in it is touched."""
    folder = tmp_path / "other"
    assert (await ferry.fetch(folder)).code == 0
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    said = await ferry.fetch(folder)

    assert (said.code, said.sentence) == (1, f"{folder} holds another backup")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "turn",
    [
        lambda api: api.spoil_downloads(times=2, loss=Loss.CUT),
        lambda api: api.spoil_downloads(times=2, loss=Loss.ALTERED),
        lambda api: api.refuse(DOWNLOAD, times=2, status=502),
        lambda api: api.refuse("getFile", times=2, status=500),
        lambda api: api.refuse("getFile", times=2, status=400, description=REFUSALS[400][3]),
        lambda api: api.flood("getFile", times=1, retry_after=1),
        lambda api: api.drop_after_storing("getFile", times=2),
    ],
    ids=["cut", "altered", "page", "500", "temporarily unavailable", "429", "dropped"],
)
async def test_a_fault_of_telegrams_costs_a_moment(
    ferry: Ferry, tmp_path: Path, turn: Callable[[BotApi], None]
) -> None:
    """Twice at the beginning of a fetch, whichever document it hits."""
    turn(ferry.bot_api)

    fetched = await ferry.fetch(tmp_path / "again")
    ferry.bot_api.reset()

    assert fetched.code == 0, fetched.err


async def test_a_download_that_fails_is_tried_again(ferry: Ferry, tmp_path: Path) -> None:
    """What is gone for a moment costs a moment."""
    blob = ferry.blob(".p00001")
    away = blob.rename(blob.with_name("away"))
    documents = len(ferry.bot_api.messages(CHAT_ID))
    before = ferry.asked_for_files
    fetching = asyncio.create_task(ferry.fetch(tmp_path / "again"))

    async def asked_again() -> bool:
        return ferry.asked_for_files > before + documents

    try:
        await steps.until(asked_again, "the part is asked for again")
    finally:
        away.rename(blob)

    assert (await fetching).code == 0


def _typed(commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What an operator's shell makes of it."""
    return subprocess.run(
        ["bash", "-c", commands],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def _differences(source_url: str, copy_url: str) -> tuple[str, ...]:
    source, copy = await asyncpg.connect(source_url), await asyncpg.connect(copy_url)
    try:
        return tuple((await compare_schemas(source, copy, schema="tenant_acme")).differences)
    finally:
        await source.close()
        await copy.close()


async def test_the_newest_backup_is_kept_when_its_time_is_over(ferry: Ferry) -> None:
    """`expire` says so; a dry run changes nothing, and here the other does neither."""
    connection = await asyncpg.connect(ferry.stack.database_url)
    await connection.execute("UPDATE control_plane.backups SET expires_at = now() - interval '1 day'")
    await connection.close()

    dry, real, shown, others = await asyncio.gather(
        ferry.run("backups", "expire", "--dry-run"),
        ferry.run("backups", "expire", "--json"),
        ferry.run("backups", "show", ferry.backup_id, "--json"),
        ferry.run("backups", "expire", "--project", "other", "--json"),
    )

    line = dry.out.splitlines()[1]
    assert line.split()[:2] == [ferry.backup_id, "acme"]
    assert line.endswith("the newest good one of its project and type is kept")
    assert [(due["id"], due["goes"]) for due in real.json()] == [(ferry.backup_id, False)]
    assert (shown.json()["status"], others.json()) == ("stored", [])


async def test_what_is_taken_out_of_the_chat_is_not_fetched(ferry: Ferry, tmp_path: Path) -> None:
    """One sentence says why."""
    connection = await asyncpg.connect(ferry.stack.database_url)
    change = "UPDATE control_plane.backups SET status = $1"
    await connection.execute(change, "expiring")
    try:
        said = await ferry.fetch(tmp_path / "back")
    finally:
        await connection.execute(change, "stored")
        await connection.close()

    assert said.code == 1
    assert "is expiring: its documents are taken out of the chat" in said.err
