"""A private PostgreSQL server: its own directory, its own loopback port, nothing left behind.

Called by the test fixtures and the demo; hands on connection URLs. PostgreSQL refuses to run as root, so
root runs it as the user `postgres`, anybody else as themselves.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

from sandbox.directory import ScratchDirectory
from sandbox.ports import free_port
from sandbox.process import Child, alive, as_user, children_of, spawn, wait_until
from sandbox.server import PrivateServer

if TYPE_CHECKING:
    from collections.abc import Mapping

SUPERUSER: Final = "postgres"
_STOP_SIGNALS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "fsync": "off",
    # segments in the data directory: a container's /dev/shm is small, and a killed server leaves them there
    "dynamic_shared_memory_type": "mmap",
}
_READY_SECONDS: Final = 60
_STOP_SECONDS: Final = 30
_PID_FILE_SHARED_MEMORY: Final = 6
_PID_FILE_STATUS: Final = 7


def newest_bin_directory() -> Path:
    """Where the newest installed PostgreSQL keeps its programs; FileNotFoundError if there is none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        raise FileNotFoundError("no PostgreSQL server in /usr/lib/postgresql/*/bin")
    return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)])


@dataclass(frozen=True, slots=True)
class Installation:
    """Programs of PostgreSQL that may be moved, as long as `folders` of `root` keep their places."""

    root: Path
    folders: tuple[str, ...]
    programs: str  #: the folder of the programs, from `root`

    @property
    def bin_directory(self) -> Path:
        return self.root / self.programs

    def copied_to(self, root: Path) -> Installation:
        for folder in self.folders:
            shutil.copytree(self.root / folder, root / folder, symlinks=True)
        return replace(self, root=root)


class PostgresServer(PrivateServer):
    """One server, initialised when it is made; TCP logins need the password (SCRAM), no query is fsynced.

    A given `directory` must not exist and must be reachable for the user `postgres`; it becomes the
    server's and is removed with it. `settings` override those of postgresql.conf. The programs are those of
    `installation`, or the system's newest.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        installation: Installation | None = None,
    ) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._user = SUPERUSER if os.geteuid() == 0 else None
        self._child: Child | None = None
        self._scratch = ScratchDirectory(directory, prefix="pgferry-postgres-")
        self._bin = self._own(installation) if installation else newest_bin_directory()
        self._data = self.directory / "data"
        try:
            self._initialise({**_SETTINGS, **(settings or {})})
        except BaseException:
            self.close()
            raise

    @property
    def directory(self) -> Path:
        return self._scratch.path

    @property
    def pid(self) -> int:
        """The postmaster's process id; RuntimeError before the first start."""
        if self._child is None:
            raise RuntimeError("the server was not started")
        return self._child.pid

    def url(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """Where to connect over TCP; without `user`, as the superuser."""
        return login_url(self.port, database, user or SUPERUSER, password or self.password)

    def start(self) -> None:
        """Start and wait until the server accepts connections."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting. If the owner dies, the server shuts down at once (immediate mode)."""
        self._child = spawn(
            [str(self._bin / "postgres"), "-D", str(self._data)],
            log=self.directory / "postgres.log",
            environment=_ENVIRONMENT,
            user=self._user,
            if_owner_dies=signal.SIGQUIT,
        )

    def wait_ready(self) -> None:
        wait_until(self._ready, seconds=_READY_SECONDS, what="PostgreSQL accepts connections")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End all sessions and the server; `immediate` skips the checkpoint, so the next start recovers."""
        if self._child is not None:
            self._child.end(_STOP_SIGNALS[mode], seconds=_STOP_SECONDS)

    def kill(self) -> None:
        """Kill the postmaster and all its processes with -9, and wait until the last is gone."""
        if self._child is None or not self._child.running:
            return
        os.kill(self._child.pid, signal.SIGSTOP)  # no new process while they are counted
        children = children_of(self._child.pid)
        self._child.kill()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: not any(map(alive, children)),
            seconds=_STOP_SECONDS,
            what="PostgreSQL's processes are gone",
        )
        self._remove_shared_memory()

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start on the same port with the same data."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """End the server and remove its directory."""
        self.stop("immediate")
        self._scratch.close()

    def _initialise(self, settings: Mapping[str, str]) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        if self._user is not None:
            shutil.chown(self.directory, self._user)
            shutil.chown(password_file, self._user)
        self._run_initdb(password_file)
        password_file.unlink()
        addresses = {"port": str(self.port), "unix_socket_directories": str(self.directory)}
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(_line(*setting) for setting in {**settings, **addresses}.items())

    def _own(self, installation: Installation) -> Path:
        """Copied to where the user `postgres` may reach it: root's home or working copy need not be open."""
        if self._user is not None:
            installation = installation.copied_to(self.directory / "installation")
        return installation.bin_directory

    def _run_initdb(self, password_file: Path) -> None:
        initdb = ["/usr/bin/setpriv", *as_user(self._user), str(self._bin / "initdb")]
        cluster = ["--pgdata", str(self._data), "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        logins = ["--username", SUPERUSER, "--pwfile", str(password_file)]
        done = subprocess.run(
            [*initdb, *cluster, *logins, "--auth-host=scram-sha-256", "--auth-local=trust"],
            env=_ENVIRONMENT,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}")

    def _ready(self) -> bool:
        if self._child is None:
            return False
        self._child.require_running()
        lines = self._pid_file()
        return lines[:1] == [str(self._child.pid)] and lines[_PID_FILE_STATUS:] == ["ready"]

    def _pid_file(self) -> list[str]:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.strip() for line in lines]

    def _remove_shared_memory(self) -> None:
        """The small segment by which PostgreSQL knows its own survivors outlives a killed server."""
        for segment in self._pid_file()[_PID_FILE_SHARED_MEMORY:_PID_FILE_STATUS]:
            subprocess.run(
                ["/usr/bin/ipcrm", "--shmem-id", segment.split()[1]], check=False, capture_output=True
            )


def login_url(port: int, database: str, user: str, password: str) -> str:
    """Of a server on the loopback."""
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{login}@127.0.0.1:{port}/{quote(database, safe='')}"


def _line(name: str, value: str) -> str:
    quoted = value.replace("'", "''")
    return f"{name} = '{quoted}'\n"
