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

    @property
    def own_processor(self) -> float:
        """Seconds of all processes but the stand-in, which is no part of pgferry."""
        return sum(self.processor.values()) - self.processor.get(STAND_IN, 0)


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
        """The same if the stand-in had used no processor; good as far as all processors were always busy."""
        return [
            rival.seconds / (chain.seconds - chain.processor[STAND_IN] / self.processors)
            for chain, rival in zip(self.chain, self.rival, strict=True)
        ]

    @property
    def processor_ratios(self) -> list[float]:
        """The rival's processor time to the chain's: what the rates come to where nothing else is short."""
        return [
            rival.own_processor / chain.own_processor
            for chain, rival in zip(self.chain, self.rival, strict=True)
        ]
