"""What follows from the end of an attempt: decided here and nowhere else.

Called by the worker of each service (`shared.runtime.worker`); the answer is carried out by storage.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shared.contracts.errors import DumpLost, Failure, PermanentError, TemporaryError, Unavailable

#: Seconds before the 2nd, the 3rd and any later attempt.
RETRY_DELAYS_SECONDS = (10.0, 60.0, 300.0)
#: Each delay is spread by this share in both directions, so that failed jobs do not return as one herd.
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again after `delay_seconds`; the attempt is spent."""

    delay_seconds: float
    code: str
    sentence: str
    from_dump: bool = False
    """Begin at the dump, whichever half failed."""


@dataclass(frozen=True, slots=True)
class HandBack:
    """Somebody else, or we later, may have the job; the attempt is given back, and the job keeps its rank."""

    code: str | None = None
    """What it waits for; None where nothing is wrong, as when the worker is stopped."""
    sentence: str | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """The job fails for good."""

    code: str
    sentence: str


Verdict = RetryAt | HandBack | Dead


def verdict(
    error: BaseException,
    *,
    attempts: int,
    limit: int,
    spread: Callable[[float, float], float],
    scale: float = 1.0,
) -> Verdict:
    """Map (error, attempts so far, limit) to what happens next.

    `spread(low, high)` draws the jitter factor; `scale` multiplies the delays (a setting that tests shrink).
    An error that nobody classified counts as temporary: it gets its attempts, and its last text is kept.
    """
    match error:
        case PermanentError():
            return Dead(error.code, error.sentence)
        case Unavailable():
            return HandBack(error.code, error.sentence)
        case _:
            code, sentence = _named(error)
    if attempts >= limit:
        return Dead(code, sentence)
    wait = delay_before(attempts + 1) * scale * spread(1 - JITTER, 1 + JITTER)
    asked = error.retry_after if isinstance(error, TemporaryError) and error.retry_after else 0.0
    return RetryAt(max(wait, asked), code, sentence, from_dump=isinstance(error, DumpLost))


def delay_before(attempt: int) -> float:
    """Seconds to wait before the given attempt (2 = the first retry), without jitter."""
    return RETRY_DELAYS_SECONDS[min(attempt - 2, len(RETRY_DELAYS_SECONDS) - 1)]


def _named(error: BaseException) -> tuple[str, str]:
    if isinstance(error, Failure):
        return error.code, error.sentence
    return "unexpected_error", f"{type(error).__name__}: an error nobody foresaw; the log has the details."
