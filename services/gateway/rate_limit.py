"""How often one client may ask for an export: a moving window in this process's memory."""

import math
import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from services.gateway.metrics import RATE_LIMITED


class TooMany(Exception):
    """The client must wait `retry_after` whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many requests; try again in {retry_after} s.")
        self.retry_after = retry_after


class RateLimit:
    """Several gateways each count for themselves."""

    def __init__(self, per_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(per_minute)
        self._window = MovingWindowRateLimiter(MemoryStorage())

    async def count(self, client: str) -> None:
        """Raises TooMany; a refused request does not lengthen the wait."""
        if await self._window.hit(self._limit, client):
            return
        RATE_LIMITED.inc()
        stats = await self._window.get_window_stats(self._limit, client)
        raise TooMany(max(1, math.ceil(stats.reset_time - time.time())))
