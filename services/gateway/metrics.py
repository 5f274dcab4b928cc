"""The gateway's metrics, beside those that every service has."""

from prometheus_client import Counter, Histogram

from services.gateway.auth import REASONS
from shared.storage.requests import Outcome

HTTP_REQUESTS = Counter(
    "pgferry_http_requests_total",
    'Requests answered, by method, route template ("unknown" for any other path) and status code.',
    labelnames=("method", "route", "code"),
)
HTTP_DURATION = Histogram(
    "pgferry_http_request_duration_seconds",
    "From the request's head to its answer, by route template.",
    labelnames=("route",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
AUTH_FAILURES = Counter(
    "pgferry_auth_failures_total", "Requests without a good token, by reason.", labelnames=("reason",)
)
RATE_LIMITED = Counter("pgferry_rate_limited_total", "Requests for an export refused for their number.")
EXPORTS_ACCEPTED = Counter(
    "pgferry_exports_accepted_total",
    "Requests for an export accepted, by what they got: a created, coalesced or known job.",
    labelnames=("outcome",),
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

for reason in REASONS:
    AUTH_FAILURES.labels(reason)
for outcome in Outcome:
    EXPORTS_ACCEPTED.labels(outcome.value)


def count_request(method: str, route: str, *, code: int, seconds: float) -> None:
    """A method that nobody has heard of is `other`: labels come from a closed set."""
    HTTP_REQUESTS.labels(method if method in METHODS else "other", route, str(code)).inc()
    HTTP_DURATION.labels(route).observe(seconds)
