"""What happened in a seed, and when: faults, processes, jobs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.chaos.fault import Fault


@dataclass(slots=True)
class Timeline:
    """Seconds count from `begin`, which is when the first request and the first fault may come."""

    events: list[tuple[float, str]] = field(default_factory=list)
    faults: Counter[Fault] = field(default_factory=Counter)
    _zero: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        self._zero = time.monotonic()

    @property
    def now(self) -> float:
        return time.monotonic() - self._zero

    def say(self, text: str) -> None:
        self.events.append((time.monotonic(), text))

    def happened(self, fault: Fault, text: str) -> None:
        """A fault was brought about."""
        self.faults[fault] += 1
        self.say(f"FAULT {fault.value}: {text}")

    def lines(self) -> list[str]:
        return [f"{at - self._zero:8.2f}  {text}" for at, text in sorted(self.events)]
