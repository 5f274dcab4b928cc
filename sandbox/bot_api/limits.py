"""The service's rules as figures; `queues` and `methods` keep them.

Two kinds: what Telegram itself counts (messages of a bot in a chat and in all) is refused at once with the
seconds until there is room; what the Bot API server counts (files of equal size, unsent messages) is
refused late and for a minute.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

SAME_SIZE_BYTES = 100_000
"""Files up to this size are not counted by size (Client.cpp of tdlib/telegram-bot-api)."""
_DELAY_PER_BYTE = 1e-7
_LEAST_DELAY = 0.2
_LARGEST_DELAY = 0.9
_BUCKET_SECONDS = 1.0
_QUEUE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Rules:
    """0 turns a rule off; the defaults are the real figures.

    `messages` and `window_seconds` per bot and chat, `bot_messages` and `bot_window_seconds` per bot;
    `same_size` stretches the times of the rule for equal files (1 is the real one); `pending` is the number
    of unsent messages at which a chat takes no more; `flood_answer_seconds` and `flood_wait_seconds` are
    how late and for how long the server's own rules refuse; a file link lives `link_seconds`.
    """

    messages: int = 20
    window_seconds: float = 60
    bot_messages: int = 30
    bot_window_seconds: float = 1
    same_size: float = 1
    pending: int = 310
    flood_answer_seconds: float = 3
    flood_wait_seconds: float = 60
    link_seconds: float = 3600

    @classmethod
    def at(cls, speed: float) -> Self:
        """All times of sending divided by `speed`."""
        real = cls()
        return replace(
            real,
            window_seconds=real.window_seconds / speed,
            bot_window_seconds=real.bot_window_seconds / speed,
            same_size=real.same_size / speed,
            flood_answer_seconds=real.flood_answer_seconds / speed,
            flood_wait_seconds=real.flood_wait_seconds / speed,
        )

    @classmethod
    def none(cls) -> Self:
        """Nothing is counted."""
        return cls(messages=0, bot_messages=0, same_size=0, pending=0)


def retry_after(nth_newest: float | None, window_seconds: float, now: float) -> int | None:
    """Whole seconds until `nth_newest` leaves the window, at least 1; None if one more may be sent.

    `nth_newest` is the sending that fills the window, in seconds of the server's clock, None if there
    are fewer.
    """
    if nth_newest is None or nth_newest + window_seconds <= now:
        return None
    return whole_seconds(nth_newest + window_seconds - now)


def whole_seconds(seconds: float) -> int:
    """As the service says a wait: never none."""
    return max(1, math.ceil(seconds))


def next_of_same_size(last: float, size: int, now: float, stretch: float) -> float | None:
    """When a file of this size may go, `last` being when its predecessor of the same size went or goes.

    None if the queue is too long: about eight at once for files of 9 MB and more.
    """
    if last > now + _QUEUE_SECONDS * stretch:
        return None
    delay = min(max(size * _DELAY_PER_BYTE, _LEAST_DELAY), _LARGEST_DELAY)
    return max(last + delay * stretch, now - _BUCKET_SECONDS * stretch)
