"""A test run's servers in containers, for people with Docker: PGFERRY_TEST_SERVICES=containers.

`tests.conftest` takes them in place of those of `sandbox`. A port is fixed, so that a server that was stopped
comes back where it was. A test that must own a server for itself still starts a private one.
"""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING, Any, Final, Self

from testcontainers.core.container import DockerContainer

from sandbox.directory import ScratchDirectory
from sandbox.ports import free_port
from sandbox.postgres import SUPERUSER, login_url
from sandbox.process import wait_until
from sandbox.rabbitmq import USER, Node, definitions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_POSTGRES_IMAGE: Final = os.environ.get("PGFERRY_TEST_POSTGRES_IMAGE", "postgres:15")
_RABBITMQ_IMAGE: Final = os.environ.get("PGFERRY_TEST_RABBITMQ_IMAGE", "rabbitmq:3-management")
_READY_SECONDS: Final = 120
_CTL: Final = '#!/bin/sh\nexec docker exec {container} rabbitmqctl "$@"\n'


class PostgresContainer:
    """As much of `PostgresServer` as the shared one's users need."""

    def __init__(self) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._container = _container(_POSTGRES_IMAGE, 5432, self.port)
        self._container.with_env("POSTGRES_PASSWORD", self.password)
        self._container.with_command("postgres -c fsync=off -c max_connections=200")

    def url(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        return login_url(self.port, database, user or SUPERUSER, password or self.password)

    def start(self) -> None:
        """Again, after `stop`."""
        self._container.get_wrapped_container().start()
        self._wait_ready()

    def stop(self) -> None:
        self._container.get_wrapped_container().stop()

    def __enter__(self) -> Self:
        self._container.start()
        self._wait_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._container.stop()

    def _wait_ready(self) -> None:
        """Over TCP: while the image makes its cluster, it listens on a socket only."""
        wait_until(self._ready, seconds=_READY_SECONDS, what="PostgreSQL accepts connections")

    def _ready(self) -> bool:
        asked = self._container.get_wrapped_container().exec_run(["pg_isready", "-h", "127.0.0.1"])
        return bool(asked.exit_code == 0)


class RabbitMqContainer:
    """As much of `RabbitMqServer` as the shared one's users need."""

    def __init__(self, *, vhosts: Sequence[str]) -> None:
        self._scratch = ScratchDirectory(prefix="pgferry-rabbitmq-")
        self._vhosts = vhosts
        here = str(self._scratch.path)
        environment = {"PATH": os.environ["PATH"], "HOME": here}
        self.node = Node(free_port(), secrets.token_hex(16), here, environment)
        self._container = _container(_RABBITMQ_IMAGE, 5672, self.node.port)
        self._container.with_env("RABBITMQ_DEFAULT_USER", USER)
        self._container.with_env("RABBITMQ_DEFAULT_PASS", self.node.password)
        self._container.with_volume_mapping(here, here, "rw")

    def launch(self) -> None:
        """Start, and wait: the vhosts come by a command."""
        self._container.start()
        here = self._scratch.path
        here.chmod(0o755)  # the image's user reads definitions in it
        program = here / "home" / "sbin" / "rabbitmqctl"
        program.parent.mkdir(parents=True)
        program.write_text(_CTL.format(container=self._container.get_wrapped_container().id))
        program.chmod(0o755)
        self.node.wait_ready()
        (here / "definitions.json").write_text(json.dumps(definitions(self.node.password, self._vhosts)))
        self.node.ctl("import_definitions", str(here / "definitions.json"))

    def close(self) -> None:
        self._container.stop()
        self._scratch.close()


def _container(image: str, port: int, host_port: int) -> Any:  # noqa: ANN401 - installed in its own group only
    container: Any = DockerContainer(image)
    container.ports[f"{port}/tcp"] = ("127.0.0.1", host_port)
    return container
