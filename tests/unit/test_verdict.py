"""What follows from the end of an attempt, as a table."""

import random

import pytest

from shared.contracts.errors import DumpLost, PermanentError, TemporaryError, Unavailable
from shared.contracts.verdict import JITTER, Dead, HandBack, RetryAt, Verdict, verdict

TIMEOUT = TemporaryError("timeout", "It took too long.")
LOST = DumpLost("spool_part_damaged", "Part 3 is missing in the spool.")
UNKNOWN_SENTENCE = "ZeroDivisionError: an error nobody foresaw; the log has the details."


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def decided(error: BaseException, attempts: int = 1, *, limit: int = 3, scale: float = 1.0) -> Verdict:
    """Without spread."""
    return verdict(error, attempts=attempts, limit=limit, spread=middle, scale=scale)


@pytest.mark.parametrize(
    ("error", "attempts", "expected"),
    [
        (PermanentError("invalid_slug", "No."), 1, Dead("invalid_slug", "No.")),
        (PermanentError("invalid_slug", "No."), 3, Dead("invalid_slug", "No.")),
        (TIMEOUT, 1, RetryAt(10, "timeout", "It took too long.")),
        (TIMEOUT, 2, RetryAt(60, "timeout", "It took too long.")),
        (TIMEOUT, 3, Dead("timeout", "It took too long.")),
        (TIMEOUT, 4, Dead("timeout", "It took too long.")),
        (LOST, 1, RetryAt(10, "spool_part_damaged", LOST.sentence, from_dump=True)),
        (LOST, 3, Dead("spool_part_damaged", LOST.sentence)),
        (ZeroDivisionError("secret"), 1, RetryAt(10, "unexpected_error", UNKNOWN_SENTENCE)),
        (ZeroDivisionError("secret"), 3, Dead("unexpected_error", UNKNOWN_SENTENCE)),
        (
            TimeoutError(),
            1,
            RetryAt(10, "unexpected_error", UNKNOWN_SENTENCE.replace("ZeroDivision", "Timeout")),
        ),
        (Unavailable("telegram", "Down."), 1, HandBack("telegram_unavailable", "Down.")),
        (Unavailable("telegram", "Down."), 3, HandBack("telegram_unavailable", "Down.")),
        (Unavailable("telegram", "Down."), 99, HandBack("telegram_unavailable", "Down.")),
    ],
)
def test_what_follows_from_an_error(error: BaseException, attempts: int, expected: Verdict) -> None:
    """At a limit of three attempts."""
    assert decided(error, attempts) == expected


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 10), (2, 60), (3, 300), (4, 300), (11, 300)])
def test_waits_grow(attempts: int, seconds: float) -> None:
    """10 s before the second attempt, 60 s before the third, five minutes before any later one."""
    found = decided(TIMEOUT, attempts, limit=20)

    assert isinstance(found, RetryAt)
    assert found.delay_seconds == seconds


def test_a_limit_of_one_attempt_never_retries() -> None:
    """The setting's least value."""
    assert isinstance(decided(TIMEOUT, 1, limit=1), Dead)


def test_waits_are_spread_by_a_fifth() -> None:
    """Both ways, and over all of it: failed jobs do not return as one herd."""
    draw = random.Random(7)  # noqa: S311 - spreading load is no cryptography
    waits = []
    for _ in range(500):
        found = verdict(TIMEOUT, attempts=1, limit=3, spread=draw.uniform)
        assert isinstance(found, RetryAt)
        waits.append(found.delay_seconds)

    assert JITTER == 0.2
    assert 8 <= min(waits) < 8.1
    assert 11.9 < max(waits) <= 12


@pytest.mark.parametrize(("asked", "waits"), [(None, 10), (0, 10), (3, 10), (45, 45), (3600, 3600)])
def test_the_longer_of_two_waits_counts(asked: float | None, waits: float) -> None:
    """`retry_after` is what the other side demands, our own delay the least we wait."""
    found = decided(TemporaryError("flood", "Too many messages.", retry_after=asked))

    assert found == RetryAt(waits, "flood", "Too many messages.")


def test_tests_may_shrink_our_waits_but_not_what_was_asked() -> None:
    """The scale is for delays of our own."""
    assert decided(TIMEOUT, scale=0.01) == RetryAt(0.1, "timeout", "It took too long.")
    asked = TemporaryError("flood", "Too many messages.", retry_after=30)
    assert decided(asked, scale=0.01) == RetryAt(30, "flood", "Too many messages.")


def test_the_text_of_an_unforeseen_error_stays_in_the_log() -> None:
    """It may hold anything; the job's row and the dead letter are public."""
    found = decided(ValueError("password=hunter2"))

    assert isinstance(found, RetryAt)
    assert "hunter2" not in found.sentence
