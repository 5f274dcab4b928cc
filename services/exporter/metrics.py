"""The exporter's own metrics."""

from prometheus_client import Counter, Gauge, Histogram

from shared.contracts.manifest import Dump

BYTES = Counter("pgferry_dump_bytes_total", "Bytes of finished dumps, by stream.", labelnames=("stream",))
DURATION = Histogram(
    "pgferry_dump_duration_seconds",
    "Time of finished dumps, from the tables' lock to the last check.",
    buckets=(1, 5, 15, 60, 300, 600, 900, 1800),
)
CLIENTS = Gauge("pgferry_pg_client_info", "An installed pg_dump; always 1.", labelnames=("major", "version"))

for stream in ("plain", "stored"):
    BYTES.labels(stream)


def observe(dump: Dump) -> None:
    BYTES.labels("plain").inc(dump.plain.size_bytes)
    BYTES.labels("stored").inc(dump.stored.size_bytes)
    DURATION.observe(dump.duration_seconds)
