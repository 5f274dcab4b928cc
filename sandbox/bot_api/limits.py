"""The service's limit on messages per sender and chat; a pure rule that `methods` asks."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MessageRule:
    """At most `messages` sendings in any `window_seconds`, per bot and chat; 0 turns the rule off."""

    messages: int
    window_seconds: float

    @property
    def applies(self) -> bool:
        return self.messages > 0 and self.window_seconds > 0

    def retry_after(self, oldest: float | None, now: float) -> int | None:
        """Whole seconds until `oldest` leaves the window, at least 1; None if one more may be sent.

        `oldest` is the `messages`-th newest sending in seconds of the server's clock, None if there
        are fewer.
        """
        if oldest is None or oldest + self.window_seconds <= now:
            return None
        return max(1, math.ceil(oldest + self.window_seconds - now))
