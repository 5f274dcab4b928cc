"""Free loopback ports for the private servers.

They lie below the range from which the kernel takes the ports of outgoing connections: a server that is down
for a restart finds its port free, and a client that keeps trying cannot connect to itself.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
_given: Final[set[int]] = set()


def free_port() -> int:
    """A port nobody listens on at 127.0.0.1; never the same one twice in a process."""
    candidates = [port for port in range(_LOWEST, _lowest_ephemeral()) if port not in _given]
    port = next(port for port in random.sample(candidates, len(candidates)) if _is_free(port))
    _given.add(port)
    return port


def has_port(pid: int, port: int) -> bool:
    """Whether a connection of the process comes from this port of 127.0.0.1."""
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        sockets = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:  # it is gone, or one of its connections is
        return False
    inodes = {fields[9] for line in lines if (fields := line.split())[1].endswith(f":{port:04X}")}
    return any(f"socket:[{inode}]" in sockets for inode in inodes)


def _lowest_ephemeral() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
