"""Child processes that cannot outlive the process that started them.

Called by the private servers and by whoever starts a service as a process of its own; hands on a `Child`,
which its owner ends by its own pid. If the owner dies first, in whatever way, the kernel ends the child.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_POLL_SECONDS = 0.05
_LOG_TAIL_CHARACTERS = 4000


class ChildEnded(RuntimeError):
    """A child ended although it was still needed; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running process in a session of its own; both of its output streams go to `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def require_running(self) -> None:
        """Raise ChildEnded, with the end of the log, if the child has ended."""
        if not self.running:
            words = self.log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
            raise ChildEnded(f"{self.process.args!r} ended with {self.process.returncode}:\n{words}")

    def end(self, by: signal.Signals = signal.SIGTERM, *, seconds: float = 20) -> None:
        """Send `by`, wait `seconds` for the end, then kill the child's whole process group."""
        self.process.send_signal(by)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the child and its process group at once, and wait until the child is gone."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


def spawn(
    arguments: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    user: str | None = None,
    if_owner_dies: signal.Signals = signal.SIGKILL,
) -> Child:
    """Start `arguments` in the log's directory, as `user` if one is named (which needs root).

    The kernel sends `if_owner_dies` when the *thread* that spawned the child ends, hence only the main
    thread may spawn. `environment` is all that the child gets.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a child dies with the thread that spawned it: spawn from the main thread")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*_bound_to_this_thread(if_owner_dies), *as_user(user), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=log.parent,
            start_new_session=True,
        )
    return Child(process, log)


def _bound_to_this_thread(death_signal: signal.Signals) -> list[str]:
    return ["/usr/bin/setpriv", "--pdeathsig", death_signal.name.removeprefix("SIG")]


def as_user(user: str | None) -> list[str]:
    """The options that make a preceding `setpriv` change to `user`; none for None."""
    if user is None:
        return []
    account = pwd.getpwnam(user)
    return ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--init-groups"]


def children_of(pid: int) -> list[int]:
    """The process ids of the children, ended ones included; empty if the process itself is gone."""
    everybody = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [other for other in everybody if _stat(other)[1:2] == [str(pid)]]


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent to notice does not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def _stat(pid: int) -> list[str]:
    """State, parent and further fields of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Poll `condition` until it holds; raises TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(_POLL_SECONDS)
