"""Names on the broker: every exchange and queue, with its arguments and bindings.

Declared as written here by `shared.messaging.declare`; a broker that disagrees stops the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.contracts.messages import BackupFailed, BackupStored, DumpReady, ExportRequested


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    alternate: str | None = None
    """Where unroutable messages go: foreign publishers may not ask for them back."""


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    exchange: str
    binding: str
    arguments: Mapping[str, str | int] = field(default_factory=dict)


COMMANDS = "pgferry.commands"
INTERNAL = "pgferry.internal"
EVENTS = "pgferry.events"
DEAD = "pgferry.dead"
UNROUTED = "pgferry.unrouted"

UNREADABLE_KEY = "unreadable"

EXCHANGES = (
    Exchange(COMMANDS, alternate=UNROUTED),
    Exchange(INTERNAL),
    Exchange(EVENTS),
    Exchange(DEAD),
    Exchange(UNROUTED),
)


def dead_key(service: str) -> str:
    """The routing key of a service's dead letters on `pgferry.dead`."""
    return f"dead.{service}"


def _work(service: str) -> Mapping[str, str | int]:
    """A work queue: the delivery limit guards against crash loops only, it never counts attempts.

    20 is what 4.x sets by itself; written out it is the same on 3.x, and `-1` would dead-letter at once
    on 3.10. At-least-once dead-lettering needs `reject-publish`.
    """
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": dead_key(service),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


#: Kept until a person decides: no time to live, no length; each look is a return that counts.
_KEPT: Mapping[str, str | int] = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}

EXPORTER = Queue("pgferry.exporter.v1", COMMANDS, ExportRequested.type, _work("exporter"))
UPLOADER = Queue("pgferry.uploader.v1", INTERNAL, DumpReady.type, _work("uploader"))
DEAD_EXPORTER = Queue("pgferry.dead.exporter.v1", DEAD, dead_key("exporter"), _KEPT)
DEAD_UPLOADER = Queue("pgferry.dead.uploader.v1", DEAD, dead_key("uploader"), _KEPT)
UNREADABLE = Queue("pgferry.unreadable.v1", DEAD, UNREADABLE_KEY, _KEPT)
UNROUTED_QUEUE = Queue("pgferry.unrouted.v1", UNROUTED, "#", _KEPT)

QUEUES = (EXPORTER, UPLOADER, DEAD_EXPORTER, DEAD_UPLOADER, UNREADABLE, UNROUTED_QUEUE)

#: Which exchange carries which message type; its routing key is the type itself.
EXCHANGE_OF = {
    ExportRequested.type: COMMANDS,
    DumpReady.type: INTERNAL,
    BackupStored.type: EVENTS,
    BackupFailed.type: EVENTS,
}

#: On these a message that no queue takes is an error; events may go nowhere.
MANDATORY = frozenset({COMMANDS, INTERNAL, DEAD})
