"""Processor time of processes, in seconds since each began, as the kernel counts it."""

from __future__ import annotations

import os
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


def _seconds(pid: int, *fields: int) -> float:
    """0 for a process that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = stat.rpartition(")")[2].split()
    return sum(int(found[field]) for field in fields) / os.sysconf("SC_CLK_TCK")
