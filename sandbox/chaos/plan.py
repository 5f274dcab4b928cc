"""What will happen in a seed: requests and faults, drawn from the seed alone, so that it can be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final
from uuid import UUID

from sandbox.chaos.fault import (
    EVERYBODY,
    EXPORTERS,
    GATEWAYS,
    TRAITS,
    UPLOAD_STEPS,
    UPLOADERS,
    Fault,
    Only,
)

SMALL_PROJECTS: Final = ("small-1", "small-2", "small-3", "small-4")
LARGE_PROJECT: Final = "large"
AWKWARD_PROJECT: Final = "awkward"
HOPELESS_PROJECTS: Final = ("schemaless", "unheard-of")  #: without a schema, and without a row
PROJECTS: Final = (*SMALL_PROJECTS, LARGE_PROJECT, AWKWARD_PROJECT)

_FORMATS: Final = (("sql", 4), ("tar", 1))
_COMPRESSIONS: Final = (("zstd", 4), ("gzip", 1), ("none", 1))
_HOPELESS_SHARE: Final = 0.08
_CANCELLED_SHARE: Final = 0.12
_GARBAGE_SHARE: Final = 0.05
_TWICE_SHARE: Final = 0.15
_HIGH_SHARE: Final = 0.2
#: A quorum queue must be older than this when the broker is killed, or it may come back without a leader.
_YOUNG_QUEUES_SECONDS: Final = 8.0


class Way(StrEnum):
    HTTP = "http"
    AMQP = "amqp"
    GARBAGE = "garbage"  #: by AMQP, and nobody can read it


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """`at` is in seconds from the beginning, `cancel_after` from the answer."""

    number: int
    at: float
    way: Way
    gateway: str
    options: dict[str, str]
    message_id: str | None
    twice: bool
    cancel_after: float | None


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """`share` is a further number between 0 and 1, for whatever the fault must still choose."""

    number: int
    at: float
    fault: Fault
    victim: str | None
    seconds: float
    share: float


@dataclass(frozen=True, slots=True)
class PlannedDump:
    """For a run that is after the uploader: a dump that is there at once, of so many parts."""

    number: int
    at: float
    parts: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much happens in one seed."""

    seconds: float = 22.0
    requests: int = 26
    faults: int = 10


_OF_UPLOADS: Final = Sizes(seconds=2.0, requests=4, faults=4)
_MOST_PARTS: Final = 6


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    only: Only | None
    requests: tuple[PlannedRequest, ...]
    faults: tuple[PlannedFault, ...]
    dumps: tuple[PlannedDump, ...] = ()


def plan_of(seed: int, only: Only | None = None, sizes: Sizes | None = None) -> Plan:
    """The same for the same arguments, on every machine."""
    uploads = only is Only.UPLOADER
    sizes = sizes or (_OF_UPLOADS if uploads else Sizes())
    requests = _Requests(Random(f"{seed} requests"), sizes)  # noqa: S311 - to be repeated
    faults = _Faults(Random(f"{seed} faults {only or ''}"), sizes, only).draw()  # noqa: S311 - to be repeated
    if uploads:
        return Plan(seed, only, (), faults, requests.draw_dumps())
    return Plan(seed, only, requests.draw(), faults)


@dataclass(frozen=True, slots=True)
class _Requests:
    random: Random
    sizes: Sizes

    def draw(self) -> tuple[PlannedRequest, ...]:
        return tuple(self._request(number, at) for number, at in enumerate(self._moments()))

    def draw_dumps(self) -> tuple[PlannedDump, ...]:
        return tuple(
            PlannedDump(number, at, self.random.randint(1, _MOST_PARTS))
            for number, at in enumerate(self._moments())
        )

    def _moments(self) -> list[float]:
        return sorted(self.random.uniform(0, self.sizes.seconds) for _ in range(self.sizes.requests))

    def _request(self, number: int, at: float) -> PlannedRequest:
        way = self._way()
        return PlannedRequest(
            number=number,
            at=at,
            way=way,
            gateway=self.random.choice(GATEWAYS),
            options=self._options(),
            message_id=self._message_id(number),
            twice=way is Way.AMQP and self._happens(_TWICE_SHARE),
            cancel_after=self.random.uniform(0, 1) if self._happens(_CANCELLED_SHARE) else None,
        )

    def _way(self) -> Way:
        if self._happens(_GARBAGE_SHARE):
            return Way.GARBAGE
        return self.random.choice((Way.HTTP, Way.AMQP))

    def _options(self) -> dict[str, str]:
        hopeless = self._happens(_HOPELESS_SHARE)
        return {
            "project_id": self.random.choice(HOPELESS_PROJECTS if hopeless else PROJECTS),
            "format": self._one_of(_FORMATS),
            "compression": self._one_of(_COMPRESSIONS),
            "priority": "high" if self._happens(_HIGH_SHARE) else "normal",
        }

    def _message_id(self, number: int) -> str | None:
        kind = self.random.choice(("none", "uuid", "text"))
        identity = UUID(int=self.random.getrandbits(128), version=4)
        return {"none": None, "uuid": str(identity), "text": f"order-{number}"}[kind]

    def _one_of(self, choices: tuple[tuple[str, int], ...]) -> str:
        return self.random.choices([name for name, _ in choices], [weight for _, weight in choices])[0]

    def _happens(self, share: float) -> bool:
        return self.random.random() < share


@dataclass(slots=True)
class _Faults:
    random: Random
    sizes: Sizes
    only: Only | None
    _drawn: list[PlannedFault] = field(default_factory=list)

    def draw(self) -> tuple[PlannedFault, ...]:
        gap = self.sizes.seconds / self.sizes.faults
        for number in range(self.sizes.faults):
            at = gap * number + self.random.uniform(0, gap)
            self._drawn.append(self._fault(number, at))
        return tuple(self._drawn)

    def _fault(self, number: int, at: float) -> PlannedFault:
        allowed = [fault for fault in Fault if self._allowed(fault, at)]
        fault = self.random.choices(allowed, [TRAITS[fault].weight for fault in allowed])[0]
        return PlannedFault(
            number=number,
            at=at,
            fault=fault,
            victim=self._victim(fault),
            seconds=self.random.uniform(*TRAITS[fault].seconds),
            share=self.random.random(),
        )

    def _victim(self, fault: Fault) -> str | None:
        victims = [name for name in TRAITS[fault].victims if name in _suspects(self.only)]
        return self.random.choice(victims) if victims else None

    def _allowed(self, fault: Fault, at: float) -> bool:
        trait = TRAITS[fault]
        if not _is_of(fault, self.only):
            return False
        if trait.victims and not set(trait.victims) & set(_suspects(self.only)):
            return False
        if sum(drawn.fault is fault for drawn in self._drawn) >= trait.at_most:
            return False
        return not (fault is Fault.BROKER_KILL and self._queues_are_young(at))

    def _queues_are_young(self, at: float) -> bool:
        return any(
            drawn.fault is Fault.QUEUES_DELETED and at - drawn.at < _YOUNG_QUEUES_SECONDS
            for drawn in self._drawn
        )


def _is_of(fault: Fault, only: Only | None) -> bool:
    """Whether runs that are after this part bring the fault; kills at steps of an upload have their own."""
    if only is Only.UPLOADER:
        return fault is Fault.KILL or fault in UPLOAD_STEPS
    if only is None:
        return fault not in UPLOAD_STEPS
    return TRAITS[fault].only in {None, only}


def _suspects(only: Only | None) -> tuple[str, ...]:
    parts = {Only.EXPORTER: EXPORTERS, Only.UPLOADER: UPLOADERS, Only.TELEGRAM: UPLOADERS}
    return parts.get(only, EVERYBODY) if only else EVERYBODY
