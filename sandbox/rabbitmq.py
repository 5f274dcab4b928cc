"""A private RabbitMQ node: its own directory, cookie, epmd and loopback ports, nothing left behind.

Called by the test fixtures and the demo; hands on AMQP URLs. Users, vhosts and permissions are loaded at the
first boot, since every `rabbitmqctl` costs a second.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sandbox.directory import ScratchDirectory
from sandbox.ports import free_port
from sandbox.process import Child, spawn, wait_until
from sandbox.rabbitmq_home import make_home
from sandbox.server import PrivateServer

if TYPE_CHECKING:
    from collections.abc import Sequence

USER: Final = "pgferry"
_READY_SECONDS: Final = 90
_STOP_SECONDS: Final = 30
_CTL_SECONDS: Final = 100
_CTL_PORTS: Final = 10
_PROTOCOL_HEADER: Final = b"AMQP\0\0\x09\x01"
_LOOPBACK_ONLY: Final = "-kernel inet_dist_use_interface {127,0,0,1}"
# two schedulers that do not spin while idle: the node shares a small machine with what is tested
_EMULATOR: Final = "+S 2:2 +A 4 +sbwt none +sbwtdcpu none +sbwtdio none -start_epmd false"
_CONFIGURATION: Final = """
vm_memory_high_watermark.absolute = 400MiB
disk_free_limit.absolute = 50MB
log.console = false
log.file.level = warning
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A running node as any process may use it; only its owner, a RabbitMqServer, starts and ends it."""

    port: int
    password: str
    directory: str
    environment: dict[str, str]

    def url(self, vhost: str = "/") -> str:
        """Where to connect as the node's user."""
        return f"amqp://{USER}:{self.password}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def wait_ready(self) -> None:
        wait_until(
            lambda: _accepts(self.port, say=_PROTOCOL_HEADER),
            seconds=_READY_SECONDS,
            what="RabbitMQ answers an AMQP handshake",
        )

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints; raises RuntimeError with its words if it fails."""
        done = subprocess.run(
            [f"{self.directory}/home/sbin/rabbitmqctl", "--quiet", *arguments],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CTL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"rabbitmqctl {arguments} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def add_vhost(self, name: str) -> None:
        """Make one more vhost for the node's user while the node runs."""
        addition = Path(self.directory, f"addition-{secrets.token_hex(4)}.json")
        addition.write_text(json.dumps({"vhosts": [_vhost(name)], "permissions": [_permission(name)]}))
        self.ctl("import_definitions", str(addition))


class RabbitMqServer(PrivateServer):
    """One node; its user `pgferry` has all rights on "/" and on each of `vhosts`.

    A given `directory` must not exist; it becomes the server's and is removed with it.
    """

    def __init__(self, directory: Path | None = None, *, vhosts: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._node: Child | None = None
        self._epmd: Child | None = None
        self._scratch = ScratchDirectory(directory, prefix="pgferry-rabbitmq-")
        make_home(self.directory / "home")
        self._environment = self._make_environment()
        self._configure(vhosts)

    @property
    def directory(self) -> Path:
        return self._scratch.path

    @property
    def pid(self) -> int | None:
        """The Erlang machine's process id while it runs."""
        return self._node.pid if self._node is not None and self._node.running else None

    def url(self, vhost: str = "/") -> str:
        """Where to connect as the node's user."""
        return self.node.url(vhost)

    @property
    def node(self) -> Node:
        """What another process needs in order to use this node."""
        return Node(self.port, self.password, str(self.directory), self._environment)

    def start(self) -> None:
        """Start and wait until the node answers an AMQP handshake."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting. If the owner dies, the node and its epmd are killed."""
        if self._epmd is None:
            self._launch_epmd()
        self._node = spawn(
            [str(self.directory / "home" / "sbin" / "rabbitmq-server")],
            log=self.directory / "node.log",
            environment=self._environment,
        )

    def wait_ready(self) -> None:
        wait_until(self._answers, seconds=_READY_SECONDS, what="RabbitMQ answers an AMQP handshake")

    def stop(self) -> None:
        """Shut the node down in order."""
        if self._node is not None:
            self._node.end(signal.SIGTERM, seconds=_STOP_SECONDS)

    def kill(self) -> None:
        """Kill the node with -9; what it wrote stays for the next start."""
        if self._node is not None:
            self._node.kill()

    def restart(self) -> None:
        """Stop and start on the same ports with the same data."""
        self.stop()
        self.start()

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints; raises RuntimeError with its words if it fails."""
        return self.node.ctl(*arguments)

    def add_vhost(self, name: str) -> None:
        """Make one more vhost for the node's user while the node runs."""
        self.node.add_vhost(name)

    def close(self) -> None:
        """End node and epmd and remove the directory."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
        self._scratch.close()

    def _make_environment(self) -> dict[str, str]:
        here = self.directory
        ctl_port = free_port()
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(here),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_NODENAME": f"pgferry{secrets.token_hex(4)}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(ctl_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(ctl_port + _CTL_PORTS),
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(here / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_EMULATOR} {_LOOPBACK_ONLY}",
            # the start script then becomes the Erlang machine instead of waiting for it: one pid, no shell
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _configure(self, vhosts: Sequence[str]) -> None:
        file = self.directory / "definitions.json"
        file.write_text(json.dumps(definitions(self.password, ["/", *vhosts])))
        configuration = f"{_CONFIGURATION}load_definitions = {file}\n"
        (self.directory / "rabbitmq.conf").write_text(configuration)
        (self.directory / "enabled_plugins").write_text("[].\n")

    def _launch_epmd(self) -> None:
        self._epmd = spawn(
            ["epmd", "-port", self._environment["ERL_EPMD_PORT"], "-address", "127.0.0.1"],
            log=self.directory / "epmd.log",
            environment=self._environment,
        )
        port = int(self._environment["ERL_EPMD_PORT"])
        wait_until(lambda: _accepts(port), seconds=_STOP_SECONDS, what="epmd listens")

    def _answers(self) -> bool:
        if self._node is None:
            return False
        self._node.require_running()
        return _accepts(self.port, say=_PROTOCOL_HEADER)


def _accepts(port: int, *, say: bytes = b"") -> bool:
    """Whether somebody listens on the loopback port and, if we say something, answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(say)
            return not say or connection.recv(1) != b""
    except OSError:
        return False


def definitions(password: str, vhosts: Sequence[str]) -> dict[str, object]:
    """The user with all rights on these vhosts, for RabbitMQ to import."""
    salt = secrets.token_bytes(4)
    digest = hashlib.sha256(salt + password.encode()).digest()
    user = {
        "name": USER,
        "password_hash": base64.b64encode(salt + digest).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "administrator",
    }
    return {
        "users": [user],
        "vhosts": [_vhost(name) for name in vhosts],
        "permissions": [_permission(name) for name in vhosts],
    }


def _vhost(name: str) -> dict[str, str]:
    return {"name": name}


def _permission(vhost: str) -> dict[str, str]:
    return {"user": USER, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"}
