"""The spool: one marked folder, files that appear whole, and parts that are what they were."""

import asyncio
import hashlib
import stat
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from shared.contracts.errors import DumpLost, Unavailable
from shared.contracts.manifest import Part
from shared.runtime.process import Fatal
from shared.storage.database import Database, open_database
from shared.storage.spool import DUMP_FILE, MARKER, Prefix, Spool, open_spool, part_name
from tests.integration.jobs_in import add_job, dump_of, empty, must_claim

CONTENT = b"a part of the stored stream"


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    """A dump's folder, made."""
    made = Spool(tmp_path).prefix(uuid4(), 3)
    made.create()
    return made


def write(prefix: Prefix, name: str, content: bytes = CONTENT) -> None:
    with prefix.writing(name) as file:
        file.write(content)


def part(index: int = 0, content: bytes = CONTENT) -> Part:
    return Part(index=index, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def url_of(folder: Path) -> str:
    return folder.as_uri()


@pytest.fixture(scope="module")
def control_plane_url(home: str) -> str:
    """One database for all tests here, emptied before each that uses it."""
    return home


@pytest.fixture
async def database(control_plane: Database, connection: asyncpg.Connection) -> Database:
    """An open control plane in which no spool is known yet."""
    await empty(connection)
    return control_plane


# The folder


async def test_the_first_service_marks_the_folder(database: Database, tmp_path: Path) -> None:
    """It is made if need be, for its owner alone; whoever comes later finds the same mark."""
    folder = tmp_path / "new" / "spool ä"
    first = await open_spool(url_of(folder), database)
    mark = (folder / MARKER).read_text()
    again = await open_spool(url_of(folder), database)

    assert first == again == Spool(folder)
    assert (folder / MARKER).read_text() == mark
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert names_in(folder) == [MARKER]


async def test_another_folder_is_refused(database: Database, tmp_path: Path) -> None:
    """A service that sees another folder would never find the others' parts: it does not start."""
    await open_spool(url_of(tmp_path / "shared"), database)

    with pytest.raises(Fatal, match="not the folder that the other services use"):
        await open_spool(url_of(tmp_path / "other"), database)

    await open_spool(url_of(tmp_path / "shared"), database)


async def test_a_folder_may_be_replaced_on_purpose(
    database: Database, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """As the refusal says: the row goes, the next service marks anew."""
    await open_spool(url_of(tmp_path / "lost"), database)
    await connection.execute("DELETE FROM control_plane.spool")

    await open_spool(url_of(tmp_path / "new"), database)


async def test_services_that_start_at_once_agree(database: Database, tmp_path: Path) -> None:
    """One mark in the folder and in the database, and no other file."""
    folder = tmp_path / "spool"
    opened = await asyncio.gather(*(open_spool(url_of(folder), database) for _ in range(10)))

    assert opened == 10 * [Spool(folder)]
    assert names_in(folder) == [MARKER]


async def test_of_two_folders_at_once_one_is_refused(
    database: Database, control_plane_url: str, tmp_path: Path
) -> None:
    """The database decides which."""
    async with open_database(control_plane_url, name="other") as other:
        opened = await asyncio.gather(
            open_spool(url_of(tmp_path / "a"), database),
            open_spool(url_of(tmp_path / "b"), other),
            return_exceptions=True,
        )

    assert sorted(type(one).__name__ for one in opened) == ["Fatal", "Spool"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://bucket/spool", "must be a file:// URL"),
        ("file://host/spool", "must be a file:// URL"),
        ("/var/spool", "must be a file:// URL"),
    ],
)
async def test_what_can_be_no_spool_is_one_sentence(database: Database, url: str, reason: str) -> None:
    """Not a traceback."""
    with pytest.raises(Fatal, match=reason):
        await open_spool(url, database)


@pytest.mark.parametrize(
    ("url", "reason"),
    [("file:///proc/nothing/spool", "cannot be made"), ("file:///proc", "cannot be written to")],
)
async def test_a_spool_that_cannot_be_written_is_waited_for(
    database: Database, url: str, reason: str
) -> None:
    """It may not be mounted yet."""
    with pytest.raises(Unavailable, match=reason) as caught:
        await open_spool(url, database)

    assert caught.value.name == "spool"


async def test_a_spool_is_probed_by_its_mark_and_a_file(database: Database, tmp_path: Path) -> None:
    """An unmounted volume leaves an empty folder; nothing of a probe stays behind."""
    spool = await open_spool(url_of(tmp_path), database)
    spool.probe()
    assert names_in(tmp_path) == [MARKER]

    (tmp_path / MARKER).rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="The spool is not usable: No such file"):
        spool.probe()


@pytest.mark.parametrize("content", ["", "no uuid\n", "\xff"])
async def test_a_damaged_mark_is_one_sentence(database: Database, tmp_path: Path, content: str) -> None:
    """It says which file, for only a person knows whether the folder is the right one."""
    (tmp_path / MARKER).write_text(content, encoding="latin-1")

    with pytest.raises(Fatal, match=r"\.pgferry-spool"):
        await open_spool(url_of(tmp_path), database)


# Files


def test_a_file_appears_whole(prefix: Prefix) -> None:
    """Under its name only after the last byte, readable by its owner alone."""
    with prefix.writing("part-00000") as file:
        file.write(CONTENT[:5])
        assert not (prefix.path / "part-00000").exists()
        file.write(CONTENT[5:])

    written = prefix.path / "part-00000"
    assert written.read_bytes() == CONTENT
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert stat.S_IMODE(prefix.path.stat().st_mode) == 0o700
    assert names_in(prefix.path) == ["part-00000"]


def test_a_writing_that_fails_leaves_no_file(prefix: Prefix) -> None:
    """Neither half a file nor its staging name; the next writing is not in its way."""
    with pytest.raises(ZeroDivisionError), prefix.writing("part-00000") as file:
        file.write(CONTENT[: 1 // 0])
    assert names_in(prefix.path) == []

    write(prefix, "part-00000")
    assert names_in(prefix.path) == ["part-00000"]


def test_a_killed_writer_is_in_nobodys_way(prefix: Prefix) -> None:
    """Its staging file stays; the manifest is written again in the same prefix by the next worker."""
    left = prefix.writing("manifest.json")
    file = left.__enter__()
    file.write(b"half")
    prefix.write_manifest(b"{}")

    assert prefix.manifest_path.read_bytes() == b"{}"
    left.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


async def test_a_dump_is_read_as_it_was_written(database: Database, prefix: Prefix) -> None:
    """dump.json is the commit point; without it, or damaged, there is no dump."""
    await add_job(database)
    made = dump_of(await must_claim(database))
    with pytest.raises(DumpLost) as missing:
        prefix.read_dump()

    prefix.write_dump(made)
    assert prefix.read_dump() == made

    (prefix.path / DUMP_FILE).write_bytes(made.model_dump_json().encode()[:-20])
    with pytest.raises(DumpLost) as damaged:
        prefix.read_dump()
    assert missing.value.code == damaged.value.code == "spool_dump_missing"


def test_a_part_as_written_is_loaded(prefix: Prefix) -> None:
    """Its path is what the uploader sends."""
    write(prefix, part_name(7))

    assert prefix.loaded_part(part(7)) == prefix.path / "part-00007"


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"\n"], ids=["empty", "shorter", "longer"])
def test_a_part_of_another_size_is_noticed(prefix: Prefix, content: bytes) -> None:
    """Before anything of it is sent; other bytes are noticed as they leave."""
    write(prefix, part_name(0), content)

    with pytest.raises(DumpLost, match="Part 0 was altered"):
        prefix.loaded_part(part(0))


def test_a_missing_part_is_noticed(prefix: Prefix) -> None:
    """A part that was never written, or a folder that was swept."""
    with pytest.raises(DumpLost, match="Part 1 is missing") as caught:
        prefix.loaded_part(part(1))
    assert caught.value.code == "spool_part_damaged"

    prefix.remove()
    with pytest.raises(DumpLost, match="Part 1 is missing"):
        prefix.loaded_part(part(1))


# Prefixes


def test_a_prefix_belongs_to_one_fence(prefix: Prefix) -> None:
    """Nobody writes into a folder that is there already."""
    with pytest.raises(FileExistsError):
        prefix.create()


def test_older_prefixes_go_and_newer_stay(tmp_path: Path) -> None:
    """By number, not by name; other jobs and strange names are left alone."""
    spool, job_id, other_id = Spool(tmp_path), uuid4(), uuid4()
    for job, fence in ((job_id, 2), (job_id, 9), (job_id, 10), (job_id, 11), (other_id, 1)):
        spool.prefix(job, fence).create()
    (tmp_path / str(job_id) / "notes").mkdir()

    spool.remove_older(job_id, 10)

    assert names_in(tmp_path / str(job_id)) == ["10", "11", "notes"]
    assert names_in(tmp_path / str(other_id)) == ["1"]


def test_removing_what_is_gone_is_fine(prefix: Prefix) -> None:
    """The last prefix takes its job's folder along."""
    write(prefix, part_name(0))
    prefix.remove()
    prefix.remove()

    assert not prefix.path.parent.exists()
    Spool(prefix.path.parent.parent).remove_older(uuid4(), 5)
    Spool(prefix.path.parent.parent).remove_job(uuid4())


def test_part_names_sort_as_parts_do() -> None:
    """So `cat part-*` restores the stream."""
    names = [part_name(index) for index in (0, 9, 10, 99, 100, 99_999)]

    assert names == sorted(names)
