"""Processor time and memory of processes since each began, as the kernel counts them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sandbox.process import children_of

_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = range(11, 15)  # proc(5), behind the name


def own_seconds(pid: int) -> float:
    """Of this process alone, all its threads together."""
    return _seconds(pid, _USER, _SYSTEM)


def ended_children_seconds(pid: int) -> float:
    """Of the children that have ended and were waited for."""
    return _seconds(pid, _CHILDREN_USER, _CHILDREN_SYSTEM)


def family_seconds(pid: int) -> float:
    """Of the process and its children, those that have ended and those that run."""
    return own_seconds(pid) + ended_children_seconds(pid) + sum(map(family_seconds, children_of(pid)))


def peak_bytes(pid: int) -> int:
    """The most memory of this process that was resident at once."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("the kernel does not tell a process's peak memory")
    return int(found[1]) * 1024


def _seconds(pid: int, *fields: int) -> float:
    """0 for a process that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = stat.rpartition(")")[2].split()
    return sum(int(found[field]) for field in fields) / os.sysconf("SC_CLK_TCK")
