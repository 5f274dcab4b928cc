"""Every kind of fault there is, and what the plan must know of each: how often, at whom, how long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    KILL = "kill"  #: -9 of a process
    KILL_BEFORE_DUMP = "kill_before_dump"  #: an exporter, while it waits for the tenant's tables
    KILL_IN_DUMP = "kill_in_dump"  #: an exporter, while pg_dump reads rows
    KILL_AFTER_DUMP = "kill_after_dump"  #: an exporter, between `dump.json` and the commit that records it
    KILL_BEFORE_PUBLISH = "kill_before_publish"  #: a gateway, between commit and publish
    KILL_BEFORE_MARK = "kill_before_mark"  #: a relay's process, between publish and mark
    KILL_IN_SEND = "kill_in_send"  #: an uploader, while a document is on its way
    KILL_BEFORE_RECORD = "kill_before_record"  #: an uploader, between the answer and its record
    KILL_BEFORE_STORED = "kill_before_stored"  #: an uploader, between the manifest and the last commit
    FREEZE = "freeze"  #: SIGSTOP, past the lease, SIGCONT
    TERMINATE = "terminate"  #: SIGTERM
    BROKER_KILL = "broker_kill"  #: -9 of RabbitMQ, and start
    BROKER_FREEZE = "broker_freeze"  #: SIGSTOP and SIGCONT: it is there and says nothing
    BROKER_CLOSE = "broker_close"  #: every connection closed by the operator
    BROKER_ALARM = "broker_alarm"  #: the memory alarm: publishers are blocked
    QUEUES_DELETED = "queues_deleted"  #: the work queues, by an operator
    POSTGRES_RESTART = "postgres_restart"  #: immediately, with recovery
    POSTGRES_CUT = "postgres_cut"
    POSTGRES_CUT_MIDWAY = "postgres_cut_midway"  #: in the middle of an answer
    POSTGRES_DELAY = "postgres_delay"
    POSTGRES_HOLE = "postgres_hole"  #: everything is accepted and swallowed
    AMQP_CUT = "amqp_cut"
    AMQP_DELAY = "amqp_delay"
    AMQP_HOLE = "amqp_hole"
    TELEGRAM_CUT = "telegram_cut"
    TELEGRAM_CUT_MIDWAY = "telegram_cut_midway"
    TELEGRAM_DELAY = "telegram_delay"
    TELEGRAM_HOLE = "telegram_hole"
    TELEGRAM_FLOOD = "telegram_flood"  #: 429
    TELEGRAM_ERROR = "telegram_error"  #: 5xx
    TELEGRAM_STORED_ERROR = "telegram_stored_error"  #: stored, and answered with 5xx
    TELEGRAM_MUSIC = "telegram_music"  #: stored, and answered as if the document were music
    TELEGRAM_HANG = "telegram_hang"  #: stored, and the answer never comes
    TELEGRAM_DROP = "telegram_drop"  #: stored, and the connection ends without an answer
    SPOOL_FULL = "spool_full"  #: an exporter finds less room than its floor
    UPLOAD_CLAIM = "upload_claim"  #: -9 of an uploader whose claim is committed, before it knows
    UPLOAD_PLAN = "upload_plan"  #: while it writes the rows of its parts
    UPLOAD_LANE = "upload_lane"  #: while it takes its place in the chat's lane with a part
    UPLOAD_SENDING = "upload_sending"  #: while it writes that it is about to send a part
    UPLOAD_CALL = "upload_call"  #: while a part is on its way
    UPLOAD_STORED = "upload_stored"  #: when a part is in the chat, before the answer
    UPLOAD_ANSWERED = "upload_answered"  #: while it writes that a part was sent
    UPLOAD_MANIFEST_PLAN = "upload_manifest_plan"  #: as for a part, here and below
    UPLOAD_MANIFEST_LANE = "upload_manifest_lane"
    UPLOAD_MANIFEST_SENDING = "upload_manifest_sending"
    UPLOAD_MANIFEST_CALL = "upload_manifest_call"
    UPLOAD_MANIFEST_STORED = "upload_manifest_stored"
    UPLOAD_MANIFEST_ANSWERED = "upload_manifest_answered"
    UPLOAD_RECORD = "upload_record"  #: in the transaction that records the backup
    UPLOAD_RECORDED = "upload_recorded"  #: when that is committed, before it knows
    UPLOAD_REMOVAL = "upload_removal"  #: while it empties the spool


class Only(StrEnum):
    """Which part a run is after."""

    EXPORTER = "exporter"
    UPLOADER = "uploader"  #: -9 of uploaders and nothing else, at each step of an upload; short seeds
    TELEGRAM = "telegram"
    BROKER = "broker"
    DATABASE = "database"


GATEWAYS: Final = ("gateway-1", "gateway-2")
EXPORTERS: Final = ("exporter-1", "exporter-2")
UPLOADERS: Final = ("uploader-1", "uploader-2")
EVERYBODY: Final = (*GATEWAYS, *EXPORTERS, *UPLOADERS)
WORKERS: Final = (*EXPORTERS, *UPLOADERS)
UPLOAD_STEPS: Final = tuple(fault for fault in Fault if fault.value.startswith("upload_"))


@dataclass(frozen=True, slots=True)
class Trait:
    """`victims`: who may be hit, empty for a server; `seconds`: the shortest and longest it lasts."""

    only: Only | None
    weight: float
    victims: tuple[str, ...] = ()
    seconds: tuple[float, float] = (0.0, 0.0)
    at_most: int = 3  #: in one seed


TRAITS: Final[dict[Fault, Trait]] = {
    Fault.KILL: Trait(None, 6, EVERYBODY, (0.2, 3.0)),
    Fault.KILL_BEFORE_DUMP: Trait(Only.EXPORTER, 2, EXPORTERS, (0.2, 2.0), 1),
    Fault.KILL_IN_DUMP: Trait(Only.EXPORTER, 3, EXPORTERS, (0.2, 2.0), 1),
    Fault.KILL_AFTER_DUMP: Trait(Only.EXPORTER, 3, EXPORTERS, (0.2, 2.0), 1),
    Fault.KILL_BEFORE_PUBLISH: Trait(Only.BROKER, 2, GATEWAYS, (0.2, 2.0), 1),
    Fault.KILL_BEFORE_MARK: Trait(Only.BROKER, 2, EVERYBODY, (0.2, 2.0), 1),
    Fault.KILL_IN_SEND: Trait(Only.TELEGRAM, 3, UPLOADERS, (0.2, 2.0), 1),
    Fault.KILL_BEFORE_RECORD: Trait(Only.TELEGRAM, 3, UPLOADERS, (0.2, 2.0), 1),
    Fault.KILL_BEFORE_STORED: Trait(Only.TELEGRAM, 3, UPLOADERS, (0.2, 2.0), 1),
    Fault.FREEZE: Trait(None, 5, EVERYBODY, (4.0, 6.0)),
    Fault.TERMINATE: Trait(None, 4, EVERYBODY, (0.0, 1.0)),
    Fault.BROKER_KILL: Trait(Only.BROKER, 2, (), (0.5, 4.0), 1),
    Fault.BROKER_FREEZE: Trait(Only.BROKER, 1.5, (), (3.0, 8.0), 1),
    Fault.BROKER_CLOSE: Trait(Only.BROKER, 1.5, (), at_most=1),
    Fault.BROKER_ALARM: Trait(Only.BROKER, 1, (), (2.0, 5.0), 1),
    Fault.QUEUES_DELETED: Trait(Only.BROKER, 2, (), at_most=1),
    Fault.POSTGRES_RESTART: Trait(Only.DATABASE, 3, (), (0.2, 3.0), 1),
    Fault.POSTGRES_CUT: Trait(Only.DATABASE, 3, EVERYBODY),
    Fault.POSTGRES_CUT_MIDWAY: Trait(Only.DATABASE, 3, WORKERS),
    Fault.POSTGRES_DELAY: Trait(Only.DATABASE, 1.5, EVERYBODY, (2.0, 5.0)),
    Fault.POSTGRES_HOLE: Trait(Only.DATABASE, 3, EVERYBODY, (2.0, 6.0)),
    Fault.AMQP_CUT: Trait(Only.BROKER, 2, EVERYBODY),
    Fault.AMQP_DELAY: Trait(Only.BROKER, 1, EVERYBODY, (2.0, 5.0)),
    Fault.AMQP_HOLE: Trait(Only.BROKER, 2, EVERYBODY, (3.0, 8.0)),
    Fault.TELEGRAM_CUT: Trait(Only.TELEGRAM, 2, UPLOADERS),
    Fault.TELEGRAM_CUT_MIDWAY: Trait(Only.TELEGRAM, 3, UPLOADERS),
    Fault.TELEGRAM_DELAY: Trait(Only.TELEGRAM, 1.5, UPLOADERS, (2.0, 5.0)),
    Fault.TELEGRAM_HOLE: Trait(Only.TELEGRAM, 2, UPLOADERS, (3.0, 8.0)),
    Fault.TELEGRAM_FLOOD: Trait(Only.TELEGRAM, 2, ()),
    Fault.TELEGRAM_ERROR: Trait(Only.TELEGRAM, 2, ()),
    Fault.TELEGRAM_STORED_ERROR: Trait(Only.TELEGRAM, 2, ()),
    Fault.TELEGRAM_MUSIC: Trait(Only.TELEGRAM, 1, (), at_most=1),
    Fault.TELEGRAM_HANG: Trait(Only.TELEGRAM, 2, (), (2.0, 6.0)),
    Fault.TELEGRAM_DROP: Trait(Only.TELEGRAM, 2, ()),
    Fault.SPOOL_FULL: Trait(Only.EXPORTER, 2, EXPORTERS, (2.0, 4.0), 1),
    **{step: Trait(Only.UPLOADER, 1, UPLOADERS, (0.0, 0.5), 1) for step in UPLOAD_STEPS},
}
