"""A home for a RabbitMQ node with only those Erlang applications that a node without plugins loads.

Called by the private RabbitMQ server. Erlang before OTP 26 looks for each module in every application's
directory, one after another; with the dozens of plugins out of the way a node starts in half the time.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTALLED: Final = Path("/usr/lib/rabbitmq/lib")
_NODE: Final = "rabbit"
_NEEDS: Final = re.compile(r"\{applications,\s*\[([^\]]*)\]", re.ASCII)


def installed_home() -> Path:
    """The newest installed RabbitMQ; its own scripts are in `sbin` (those in /usr/sbin change the user)."""
    found = [path.parents[1] for path in _INSTALLED.glob("rabbitmq_server-*/sbin/rabbitmqctl")]
    if not found:
        raise FileNotFoundError(f"no RabbitMQ in {_INSTALLED}/rabbitmq_server-*")
    return max(found)


def make_home(path: Path) -> None:
    """Make `path` a home: copies of the scripts, which look around themselves, and links to the rest."""
    installed = installed_home()
    shutil.copytree(installed / "sbin", path / "sbin")
    (path / "escript").symlink_to(installed / "escript")
    (path / "plugins").mkdir()
    for application in _needed(installed / "plugins"):
        (path / "plugins" / application.name).symlink_to(application)


def _needed(plugins: Path) -> Iterator[Path]:
    """The node's application and what it needs, directly or not; Erlang's own are elsewhere."""
    directories = {path.name.rpartition("-")[0]: path for path in plugins.iterdir() if path.is_dir()}
    names = [_NODE]
    for name in names:
        if name in directories:
            yield directories[name]
            described = (directories[name] / "ebin" / f"{name}.app").read_text(encoding="utf-8")
            needs = _NEEDS.search(described)
            names.extend(set(re.findall(r"\w+", needs[1]) if needs else ()) - set(names))
