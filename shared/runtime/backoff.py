"""Growing waits for what is not there yet: the broker, the database, a queue."""

import random
from collections.abc import Iterator


def backoff(*, first: float = 0.5, longest: float = 10.0) -> Iterator[float]:
    """Seconds to wait, doubling up to `longest`, each spread by a fifth against herds."""
    wait = first
    while True:
        yield wait * random.uniform(0.8, 1.2)  # noqa: S311 - spreading load is no cryptography
        wait = min(wait * 2, longest)
