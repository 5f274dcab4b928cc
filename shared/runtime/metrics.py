"""Metrics that every service has; a service's own are in its `metrics.py`.

Labels come from closed sets, never an id, a path or an error's text, and each known label value is
there with 0 from the start.
"""

import platform
from importlib.metadata import version

from prometheus_client import Counter, Gauge, Info, disable_created_metrics

# Otherwise each counter has a second series beside it that nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

BUILD = Info("pgferry_build", "The running version of pgferry and of Python.")
BUILD.info({"version": version("pgferry"), "python": platform.python_version()})

AMQP_CONNECTED = Gauge(
    "pgferry_amqp_connected", "1 while this connection to the broker is up.", labelnames=("connection",)
)
OUTBOX_PUBLISHED = Counter(
    "pgferry_outbox_published_total",
    "Outbox rows published by this process, by result; a failed one is tried again.",
    labelnames=("result",),
)
OUTBOX_WAITING = Gauge("pgferry_outbox_waiting_messages", "Outbox rows not yet published, as last seen.")
OUTBOX_OLDEST = Gauge(
    "pgferry_outbox_oldest_timestamp_seconds", "When the oldest unpublished row was added; 0 without rows."
)
DELIVERIES = Counter(
    "pgferry_amqp_deliveries_total",
    "Messages taken from a queue, by what became of them.",
    labelnames=("queue", "outcome"),
)
ATTEMPTS = Counter(
    "pgferry_attempts_total",
    "Attempts at one half of a job, by how they ended.",
    labelnames=("group", "outcome"),
)
RECONCILED = Counter(
    "pgferry_reconciled_total",
    "What this process put right in its rounds, by duty and kind.",
    labelnames=("duty", "kind"),
)
RECONCILED_AT = Gauge(
    "pgferry_reconciled_timestamp_seconds",
    "When this process last ended a round of this duty well; 0 before the first.",
    labelnames=("duty",),
)
SLOTS_BUSY = Gauge("pgferry_slots_busy", "Jobs that this process works on now.")
WAITING = Gauge(
    "pgferry_dependency_missing",
    "1 while this process claims no job because it waits for this dependency.",
    labelnames=("dependency",),
)

for connection in ("publisher", "consumer"):
    AMQP_CONNECTED.labels(connection)
for result in ("sent", "failed"):
    OUTBOX_PUBLISHED.labels(result)

ATTEMPT_OUTCOMES = ("done", "retry", "hand_back", "dead", "cancelled", "lease_lost")
DELIVERY_OUTCOMES = ("handled", "unreadable", "returned")
