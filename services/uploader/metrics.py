"""The uploader's own metrics."""

from prometheus_client import Counter, Gauge, Histogram

SENT = Counter("pgferry_telegram_documents_total", "Documents that Telegram took.", labelnames=("kind",))
SENT_BYTES = Counter("pgferry_telegram_sent_bytes_total", "Bytes of documents that Telegram took.")
FLOOD_WAITS = Counter("pgferry_telegram_flood_waits_total", "Times that Telegram asked us to wait.")
FLOOD_WAIT_SECONDS = Counter(
    "pgferry_telegram_flood_wait_seconds_total", "Seconds that Telegram asked us to wait."
)
LANE_WAIT_SECONDS = Histogram(
    "pgferry_telegram_lane_wait_seconds",
    "Seconds that a post waited for its turn in the lane of its chat.",
    buckets=(0.01, 0.1, 1, 3, 10, 30, 60, 120, 300),
)
SUSPECTED = Counter(
    "pgferry_telegram_suspected_sends_total",
    "Documents sent again because nobody knows what became of the call before.",
)
BACKUP_BYTES = Histogram(
    "pgferry_backup_size_bytes",
    "Stored size of recorded backups.",
    buckets=tuple(4**power * 1024 * 1024 for power in range(8)),
)

CATALOGUE_PINNED = Gauge(
    "pgferry_catalogue_pinned",
    "1 when this process last saw the newest catalogue pinned, 0 before that and where the bot may not pin.",
)

for kind in ("part", "manifest", "catalogue"):
    SENT.labels(kind)
