"""The command line where no worker runs: what it prints, where, and how it ends."""

import asyncio
import signal
import stat
import subprocess
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cli.main import app
from sandbox.ports import free_port
from services.gateway.settings import TokenSettings
from shared.contracts.job import StageGroup
from shared.contracts.topology import EXPORTER
from shared.storage.database import Database
from tests.e2e import steps
from tests.e2e.commands import ended, pgferry, started

SECRET = "a-secret-of-at-least-32-characters"


def _commands() -> list[list[str]]:
    """Every command and group, as it is typed after `pgferry`."""
    found: list[list[str]] = [[]]
    for words in found:
        command = get_command(app)
        for word in words:
            command = command.commands[word]  # type: ignore[attr-defined]
        found.extend([*words, name] for name in getattr(command, "commands", ()))
    return found


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_every_help_says_what_the_command_does(words: list[str]) -> None:
    """A sentence for each, an example where something must be typed after it."""
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="pgferry", env={"COLUMNS": "100"})

    assert done.exit_code == 0
    assert f"Usage: {' '.join(['pgferry', *words])} " in done.stdout
    assert "." in done.stdout.split("─")[0]
    if "Arguments" in done.stdout:
        assert f"pgferry {' '.join(words)} " in done.stdout.partition("Example: ")[2]


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_no_paragraph_of_a_help_is_broken_by_its_source(words: list[str]) -> None:
    """Typer keeps the line ends of a docstring, wherever the terminal's own fall."""
    command = get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]

    paragraphs = cleandoc(command.help or "").split("\n\n")

    assert [paragraph for paragraph in paragraphs if "\n" in paragraph] == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "Commands"),
        (["--version"], 0, f"pgferry {version('pgferry')}"),
        (["backup"], 2, "No such command 'backup'"),
        (["jobs", "show", "7"], 2, "should be a valid UUID"),
        (["export", "acme", "--format", "directory"], 2, "Invalid value for '--format'"),
        (["backups", "list", "--limit", "0"], 2, "Invalid value for '--limit'"),
        (["backups", "list", "--since", "yesterday"], 2, "'yesterday' is no date; write 2026-11-01"),
        (["backups", "list", "--before", "20261101000000"], 2, "is no date"),
    ],
)
def test_usage(words: list[str], code: int, said: str) -> None:
    """What is unknown or malformed is named on standard error, with exit code 2."""
    done = CliRunner().invoke(app, words, prog_name="pgferry", env={"COLUMNS": "100"})

    assert done.exit_code == code
    assert said in done.output
    assert not (code and words and done.stdout)


async def test_migrate_makes_and_keeps_the_control_plane(database_url: str) -> None:
    """Before it, commands say that it is missing; a second run changes nothing."""
    before = await pgferry("jobs", "list", DATABASE_URL=database_url)
    first = await pgferry("migrate", DATABASE_URL=database_url)
    second = await pgferry("migrate", DATABASE_URL=database_url)

    assert (before.code, before.out) == (1, "")
    assert before.sentence.endswith("run: pgferry migrate")
    assert (first.code, first.out, first.err) == (0, "control_plane: nothing -> 0007\n", "")
    assert (second.code, second.out, second.err) == (0, "up to date\n", "")


async def test_a_database_that_cannot_be_used_is_one_sentence(database_url: str) -> None:
    """Not set, not readable, not there, not let in: the code says whose fault it is."""
    unset, unreadable, nobody, refused = await asyncio.gather(
        pgferry("migrate"),
        pgferry("migrate", DATABASE_URL="postgresql://me:half/other@127.0.0.1/x"),
        pgferry("migrate", DATABASE_URL=f"postgresql://me:secret@127.0.0.1:{free_port()}/x"),
        pgferry("migrate", DATABASE_URL=database_url.replace("://postgres:", "://postgres:not")),
    )

    assert (unset.code, unset.sentence) == (2, "DATABASE_URL: is not set")
    assert (unreadable.code, unreadable.sentence.partition(";")[0]) == (
        2,
        "DATABASE_URL: cannot be read as a URL",
    )
    assert "half" not in unreadable.err
    assert (nobody.code, nobody.sentence) == (
        1,
        "PostgreSQL is not reachable: ConnectionRefusedError; look at DATABASE_URL, and whether its server"
        " runs.",
    )
    assert refused.code == 1
    assert "password authentication failed" in refused.sentence


async def test_declaring_twice_is_fine(vhost_url: str) -> None:
    """Declaring is the same for who comes first and who comes later."""
    for _ in range(2):
        said = await pgferry("broker", "declare", AMQP_URL=vhost_url)
        assert (said.code, said.out, said.err) == (0, "declared\n", "")


async def test_a_broker_that_cannot_be_used_is_one_sentence(vhost_url: str) -> None:
    """Not there, not readable; and a queue with other arguments, in the broker's own words."""
    async with await aio_pika.connect(vhost_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(EXPORTER.name, durable=True)
        nobody, unreadable, different = await asyncio.gather(
            pgferry("broker", "declare", AMQP_URL=f"amqp://me:secret@127.0.0.1:{free_port()}/"),
            pgferry("broker", "declare", AMQP_URL="amqp://me:half/other@127.0.0.1/"),
            pgferry("broker", "declare", AMQP_URL=vhost_url),
        )

    assert (nobody.code, unreadable.code, different.code) == (1, 2, 1)
    assert "Connect call failed" in nobody.sentence
    assert "half" not in unreadable.sentence
    assert "PRECONDITION_FAILED" in different.sentence
    assert EXPORTER.name in different.sentence


async def test_wrong_options_are_named_as_they_are_typed(
    control_plane_url: str, connection: asyncpg.Connection
) -> None:
    """All problems at once, exit 2, and no job."""
    said = await pgferry(
        *("export", "no such/id", "--caption", "a\nb", "--filename", "../x", "--storage-path", "/abs"),
        *("--expires-in-days", "0", "--notify-email", "nobody"),
        DATABASE_URL=control_plane_url,
    )

    assert (said.code, said.out) == (2, "")
    named = {line.removeprefix("pgferry: ").partition(":")[0] for line in said.err.splitlines()}
    options = {"--caption", "--filename", "--storage-path", "--expires-in-days", "--notify-email"}
    assert named == {"PROJECT", *options}
    assert await connection.fetchval("SELECT count(*) FROM control_plane.jobs") == 0


async def test_jobs_are_listed_and_shown(control_plane_url: str, control_plane: Database) -> None:
    """No id is cut in a narrow pipe, filters filter, JSON has everything with times in ISO 8601."""
    project = "project-with-a-name-as-long-as-it-may-be-" + "x" * 23
    cancelled = await steps.ask(control_plane, project)
    async with control_plane.session() as session:
        await session.cancellations.unheld(cancelled)
    jobs = [await steps.ask(control_plane, name) for name in (project, "other")]
    url = {"DATABASE_URL": control_plane_url}
    table, as_json, shown, unknown = await asyncio.gather(
        pgferry("jobs", "list", **url),
        pgferry("jobs", "list", "--project", project, "--status", "pending", "--json", **url),
        pgferry("jobs", "show", str(jobs[0]), **url),
        pgferry("jobs", "show", str(uuid4()), **url),
    )

    rows = [line.split() for line in table.out.splitlines()]
    assert rows[0] == ["JOB", "PROJECT", "STATUS", "STAGE", "CREATED", "ERROR"]
    assert [row[:4] for row in rows[1:]] == [
        [str(jobs[1]), "other", "pending", "queued"],
        [str(jobs[0]), project, "pending", "queued"],
        [str(cancelled), project, "cancelled", "queued"],
    ]
    (job,) = as_json.json()
    assert (job["id"], job["options"]["compression"]) == (str(jobs[0]), "zstd")
    assert job["created_at"].endswith("Z")
    fields = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert (fields["id"], fields["options.compression"]) == (str(jobs[0]), "zstd")
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.sentence.startswith("no job ")


async def test_a_waiting_job_is_cancelled_and_the_worker_of_a_held_one_is_told(
    control_plane_url: str, control_plane: Database, connection: asyncpg.Connection
) -> None:
    """The command says which of the two it was; an ended job is refused, a wait has an end."""
    url = {"DATABASE_URL": control_plane_url}
    held, waiting = await _held_job(control_plane, "other"), await steps.ask(control_plane, "acme")
    cancelled, unknown = await asyncio.gather(
        pgferry("jobs", "cancel", str(waiting), **url), pgferry("jobs", "cancel", str(uuid4()), **url)
    )
    again, busy = await asyncio.gather(
        pgferry("jobs", "cancel", str(waiting), **url),
        pgferry("jobs", "cancel", str(held), "--wait", "--timeout", "0.1", **url),
    )

    assert (cancelled.code, cancelled.out) == (0, f"cancelled {waiting} of project acme\n")
    assert (again.code, busy.code, unknown.code) == (1, 1, 1)
    assert again.sentence == f"job {waiting} is cancelled already"
    assert busy.sentence.startswith(f"job {held} is still held after 0.1 s")
    assert unknown.sentence.startswith("no job ")
    rows = [await steps.job_row(connection, job) for job in (waiting, held)]
    assert [(row["status"], row["cancel_requested_at"] is None) for row in rows] == [
        ("cancelled", True),
        ("running", False),
    ]
    audited = await connection.fetch(
        "SELECT actor, project_id, job_id FROM control_plane.audit_log WHERE action = 'job.cancel'"
    )
    assert {tuple(row) for row in audited} == {("cli", "acme", waiting), ("cli", "other", held)}


async def _held_job(control_plane: Database, project: str) -> UUID:
    await steps.ask(control_plane, project)
    async with control_plane.session() as session:
        claim = await session.jobs.claim(StageGroup.DUMP, owner="test", lease_seconds=60)
    assert claim is not None
    return claim.job_id


async def test_ctrl_c_ends_the_waiting_and_not_the_job(
    control_plane_url: str, connection: asyncpg.Connection
) -> None:
    """One sentence says how to look at the job that goes on; the same request joins it."""
    settings = {"DATABASE_URL": control_plane_url}
    waiting = await started("export", "acme", "--wait", **settings)
    assert waiting.stderr is not None
    created = (await waiting.stderr.readline()).decode()
    job_id = created.split()[1].rstrip(":")

    waiting.send_signal(signal.SIGINT)
    async with asyncio.timeout(5):
        said = await ended(waiting, settings)
    joined = await pgferry("export", "acme", **settings)

    assert created == f"job {job_id}: created\n"
    assert (said.code, said.out) == (130, "")
    assert said.err.strip() == f"pgferry: stopped waiting; the job goes on: pgferry jobs show {job_id}"
    assert (await steps.job_row(connection, UUID(job_id)))["status"] == "pending"
    assert joined.code == 0
    assert "waits already with the same options" in joined.err


async def test_keys_are_made_once(tmp_path: Path) -> None:
    """The identity is a file for its owner alone, never overwritten; the rest are settings."""
    identity = tmp_path / "key.txt"
    made = await pgferry("keys", "generate", "--identity", str(identity))
    content = identity.read_text()
    again, nowhere = await asyncio.gather(
        pgferry("keys", "generate", "--identity", str(identity)),
        pgferry("keys", "generate", "--identity", str(tmp_path / "no" / "key.txt")),
    )

    assert (made.code, made.err) == (0, "")
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600
    settings = dict(line.split("=", 1) for line in made.out.splitlines())
    assert set(settings) == {"PGFERRY_AGE_RECIPIENTS", "PGFERRY_SIGNING_KEY", "JWT_SECRET"}
    public = subprocess.run(["age-keygen", "-y", str(identity)], capture_output=True, text=True, check=True)  # noqa: ASYNC221
    assert public.stdout.strip() == settings["PGFERRY_AGE_RECIPIENTS"]
    assert "AGE-SECRET-KEY" not in made.out
    assert (again.code, again.sentence) == (1, f"{identity} exists; a key file is never overwritten")
    assert (nowhere.code, again.out, nowhere.out) == (1, "", "")
    assert identity.read_text() == content


async def test_tokens_are_for_development_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PGFERRY_DEV=1 the gateway's verifier takes what is printed; without it there is none."""
    production, nobody, somebody = await asyncio.gather(
        pgferry("token", "acme", JWT_SECRET=SECRET),
        pgferry("token", PGFERRY_DEV="1", JWT_SECRET=SECRET),
        pgferry("token", "acme", "--operator", PGFERRY_DEV="1", JWT_SECRET=SECRET),
    )
    monkeypatch.setenv("JWT_SECRET", SECRET)
    caller = TokenSettings().verifier().caller(f"Bearer {somebody.out.strip()}")

    assert (production.code, production.out, nobody.code, nobody.out) == (2, "", 2, "")
    assert "PGFERRY_DEV=1" in production.sentence
    assert "PROJECT" in nobody.sentence
    assert (caller.project_id, caller.is_operator) == ("acme", True)
