"""Tells the log of an outage once, however often whoever needs the dependency asks for it again."""

import time
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Outage:
    """Of one dependency, as one who needs it sees it; each reason is told once for each outage."""

    dependency: str
    _reasons: set[str] = field(default_factory=set)
    _began_at: float = 0.0

    def goes_on(self, reason: str) -> None:
        if not self._reasons:
            self._began_at = time.monotonic()
        if reason not in self._reasons:
            self._reasons.add(reason)
            log.warning("waiting", dependency=self.dependency, reason=reason)

    def ended(self) -> None:
        if self._reasons:
            seconds = round(time.monotonic() - self._began_at, 1)
            log.info("no longer waiting", dependency=self.dependency, seconds=seconds)
            self._reasons.clear()
