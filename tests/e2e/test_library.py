"""The Python example of docs/library.md, run as it is printed."""

import asyncio
import sys
from pathlib import Path

import asyncpg

from sandbox.stack import REPOSITORY, Stack

DOCUMENT = REPOSITORY / "docs" / "library.md"


def example() -> str:
    text = DOCUMENT.read_text(encoding="utf-8")
    part = text.partition("<!-- example: begin")[2].partition("<!-- example: end")[0]
    return part.partition("```python\n")[2].partition("```")[0]


async def test_the_example_of_the_page_runs(
    stack: Stack, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """From bytes and from paths; one of the files is not there, and the others are stored all the same."""
    await connection.execute("INSERT INTO control_plane.projects (id, slug) VALUES ('acme', 'acme')")
    await asyncio.to_thread((tmp_path / "app.log").write_bytes, b"a line\n")
    environment = stack.environment("cli") | {"DATABASE_URL": stack.url_as("operator")}

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", example()),
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()

    assert (process.returncode, err) == (0, b"")
    note, log, missing, newest, *counts = out.decode().splitlines()
    rows = await connection.fetch("SELECT * FROM control_plane.backups ORDER BY type DESC")
    assert note.startswith(f"{rows[0]['filename']} [(1, 'BQAC")
    assert log == f"app.log {rows[1]['id']}"
    assert missing == "access.log access.log is not there, or is no file."
    assert newest == "backup_newest"
    assert counts == ["logs 1 7", "storage 1 12"]
    actors = await connection.fetch("SELECT DISTINCT actor FROM control_plane.audit_log")
    assert [row["actor"] for row in actors] == ["nightly"]
    assert (rows[0]["caption"], rows[0]["expires_at"]) == ("kept for the audit", None)
