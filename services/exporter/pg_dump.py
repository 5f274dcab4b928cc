"""pg_dump: which program, which arguments, and its process.

`services.exporter.export` starts one for each dump. No shell, no secret in the arguments, and a process
group of its own that ends with this process, however this process ends.
"""

import asyncio
import contextlib
import glob
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from shared.contracts.errors import Unavailable
from shared.contracts.job import Format
from shared.runtime.process import Fatal

#: What of pg_dump's standard error is kept.
STDERR_BYTES = 64 * 1024
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")


@dataclass(frozen=True, slots=True)
class Client:
    """One installed pg_dump."""

    program: Path
    major: int
    version: str


def find_clients(bin_dirs: str) -> list[Client]:
    """Every pg_dump under the colon-separated globs. Raises Fatal when there is none."""
    folders = [found for pattern in bin_dirs.split(":") for found in sorted(glob.glob(pattern))]  # noqa: PTH207 - absolute
    programs = [Path(folder, "pg_dump") for folder in folders]
    clients = [_client(program) for program in programs if os.access(program, os.X_OK)]
    if not clients:
        raise Fatal(f"No pg_dump in PG_BIN_DIRS ({bin_dirs}): install the PostgreSQL client programs.")
    return clients


def client_for(server_major: int, clients: Sequence[Client]) -> Client:
    """The server's own major version, else the nearest newer one: an older client refuses the server."""
    fitting = [client for client in clients if client.major >= server_major]
    if not fitting:
        raise Unavailable(
            "pg_dump",
            f"The server is PostgreSQL {server_major}; install its pg_dump, or a newer one, in PG_BIN_DIRS "
            "and restart the exporter.",
            code="client_missing",
        )
    return min(fitting, key=lambda client: client.major)


def quoted_pattern(name: str) -> str:
    """The pattern that `pg_dump -n` matches with exactly this one name."""
    return '"' + name.replace('"', '""') + '"'


def without_password(url: str) -> tuple[str, str | None]:
    """A connection URL that may be shown, and the password that was in it."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    in_query = [value for name, value in query if name == "password"]
    netloc = parts.netloc
    if parts.password is not None:
        user, _, host = netloc.rpartition("@")
        netloc = f"{user.split(':', 1)[0]}@{host}"
    kept = [(name, value) for name, value in query if name not in {"password", "application_name"}]
    query_left = f"?{urlencode(kept, quote_via=quote)}" if kept else ""
    # Put together by hand: urlunsplit makes `postgresql:///t` lose the slashes that libpq knows a URL by.
    shown = f"{parts.scheme}://{netloc}{parts.path}{query_left}"
    return shown, in_query[-1] if in_query else unquote(parts.password) if parts.password else None


@dataclass(frozen=True, slots=True)
class DumpCommand:
    """One dump of one schema in an exported snapshot."""

    client: Client
    format: Format
    url: str
    schema: str
    snapshot: str
    lock_seconds: float
    application_name: str

    def arguments(self) -> list[str]:
        shown, _ = without_password(self.url)
        return [
            *_ENDS_WITH_PARENT,
            str(self.client.program),
            f"--dbname={shown}",
            "--no-password",
            f"--format={_FORMATS[self.format]}",
            f"--schema={quoted_pattern(self.schema)}",
            f"--snapshot={self.snapshot}",
            f"--lock-wait-timeout={round(self.lock_seconds * 1000)}",
            "--no-owner",
            "--no-privileges",
            "--no-tablespaces",
            "--no-publications",
            "--no-subscriptions",
            "--no-security-labels",
            "--quote-all-identifiers",
            "--encoding=UTF8",
        ]


_FORMATS = {Format.SQL: "plain", Format.TAR: "tar"}

#: `kill -9` of the exporter reaches pg_dump too; the kernel sends it when the main thread is gone.
_ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")


@dataclass(slots=True)
class RunningDump:
    process: asyncio.subprocess.Process
    _stderr: asyncio.Task[bytes]

    async def ended(self) -> tuple[int, str]:
        """Exit code and the end of standard error, after the process has ended."""
        text = await self._stderr
        return await self.process.wait(), text.decode(errors="replace").strip()

    def kill(self) -> None:
        """End the whole process group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@asynccontextmanager
async def running(command: DumpCommand, output: FileIO) -> AsyncIterator[RunningDump]:
    """Start pg_dump writing to `output` (closed here); at the end of the block it is gone."""
    with _password_file(command.url) as password_file:
        environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "PGAPPNAME": command.application_name,
            "PGCONNECT_TIMEOUT": "10",
            "PGOPTIONS": "-c client_connection_check_interval=5s",  # or its sort outlives a killed pg_dump
            "PGPASSFILE": f"/proc/self/fd/{password_file}",
        }
        with output:
            process = await asyncio.create_subprocess_exec(
                *command.arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                pass_fds=(password_file,),
                start_new_session=True,
            )
        dump = RunningDump(process, asyncio.create_task(_end_of(process.stderr)))
        try:
            yield dump
        finally:
            dump.kill()
            await dump.ended()


@contextlib.contextmanager
def _password_file(url: str) -> Iterator[int]:
    """A descriptor that libpq takes for a password file of mode 0600.

    It is in memory alone, so that no password stays on a disk, however this process ends.
    """
    _, password = without_password(url)
    descriptor = os.memfd_create("pgpass")
    try:
        os.fchmod(descriptor, 0o600)
        if password is not None:
            escaped = password.replace("\\", "\\\\").replace(":", "\\:")
            os.write(descriptor, f"*:*:*:*:{escaped}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)


async def _end_of(stream: asyncio.StreamReader | None) -> bytes:
    """Read to the end, keep the last part."""
    kept = b""
    while stream is not None and (piece := await stream.read(STDERR_BYTES)):
        kept = (kept + piece)[-STDERR_BYTES:]
    return kept


def _client(program: Path) -> Client:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=10)
    found = _VERSION.search(answer.stdout)
    if found is None:
        raise Fatal(f"{program} --version says nothing we know: {answer.stdout!r}")
    return Client(program, major=int(found[2]), version=found[1])
