"""What `./run bench queue` has measured, as it was; `sandbox.bench.queue_report` makes tables of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.bench.figures import Rounds

STAND_IN = "Bot API stand-in"

RELAY, PUBLISH = "relay: outbox to broker", "bare publish, confirmed"
INTAKE, CONSUME = "intake: broker to job", "bare consume, acknowledged"


@dataclass(frozen=True, slots=True)
class Round:
    """All tenants once."""

    seconds: float
    processor: dict[str, float]  #: seconds by process


@dataclass(frozen=True, slots=True)
class QueueFigures:
    machine: dict[str, str]
    processors: int
    tenants: int
    tables: int
    chain: list[Round]
    rival: list[Round]
    messages: int
    carried: Rounds  #: seconds for all messages

    @property
    def rate_ratios(self) -> list[float]:
        """Exports per second, the chain's to the rival's, round by round."""
        return [rival.seconds / chain.seconds for chain, rival in zip(self.chain, self.rival, strict=True)]

    @property
    def rate_ratios_without_stand_in(self) -> list[float]:
        """The same if the stand-in had used no processor: it is no part of pgferry.

        Good as far as all processors were busy all the time.
        """
        return [
            rival.seconds / (chain.seconds - chain.processor[STAND_IN] / self.processors)
            for chain, rival in zip(self.chain, self.rival, strict=True)
        ]
