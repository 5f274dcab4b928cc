"""How `pgferry dlq` shows a letter: nothing that others wrote reaches a terminal as it is."""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cli.output import text_of
from shared.contracts.letter import LETTER_QUEUES, Letter

COLUMNS = ("LETTER", "QUEUE", "REASON", "PROJECT", "ATTEMPTS", "REPLAYS", "SENT")

#: For people; JSON has the whole body.
_SHOWN_BYTES = 16 * 1024
_ROOM = 1000  # summaries beyond the limit before the newest are dropped


@dataclass(slots=True)
class View:
    """What was seen of some letters: memory holds a few summaries more than `limit`, and one body."""

    limit: int
    groups: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: Letter | None = None
    _kept: list[dict[str, object]] = field(default_factory=list)

    def see(self, letter: Letter) -> None:
        self.groups[letter.queue, letter.reason] += 1
        self.first = self.first or letter
        self._kept.append(summary(letter))
        if len(self._kept) >= 2 * self.limit + _ROOM:
            self._kept = self.listed

    @property
    def listed(self) -> list[dict[str, object]]:
        """At most `limit`: queue by queue the oldest first, whatever order the broker has them in."""
        return sorted(self._kept, key=_by_age)[: self.limit]


def _by_age(shown: Mapping[str, object]) -> tuple[int, bool, str, str]:
    """Letters of which nobody said when they were sent come last."""
    sent_at = shown["sent_at"]
    moment = sent_at.isoformat() if isinstance(sent_at, datetime) else ""
    queue = list(LETTER_QUEUES).index(str(shown["queue"]))
    return queue, not moment, str(shown["last_failed_at"] or moment), str(shown["id"])


def summary(letter: Letter) -> dict[str, object]:
    """What a list shows in JSON: the same names for each kind of letter, without its body."""
    return {
        "id": letter.id,
        "queue": letter.queue,
        "reason": letter.reason,
        "message": letter.header("x-message"),
        "job_id": letter.job_id,
        "project_id": letter.project_id,
        "attempts": letter.attempts,
        "service": letter.header("x-service"),
        "host": letter.header("x-host"),
        "first_failed_at": letter.header("x-first-failed-at"),
        "last_failed_at": letter.header("x-last-failed-at"),
        "replay_count": letter.replay_count,
        "sent_at": letter.delivery.sent_at,
        "size_bytes": len(letter.delivery.body),
    }


def row(shown: Mapping[str, object]) -> Sequence[object]:
    """The cells of COLUMNS for one summary."""
    names = ("id", "queue", "reason", "project_id", "attempts", "replay_count", "sent_at")
    return [shown[name] for name in names]


def details(letter: Letter) -> dict[str, object]:
    """Everything but the body, with the address and properties that the broker has of the message."""
    delivery = letter.delivery
    properties = {
        "exchange": delivery.exchange,
        "routing_key": delivery.routing_key,
        "message_id": delivery.message_id,
        "type": delivery.message_type,
        "app_id": delivery.app_id,
        "content_type": delivery.content_type,
        "correlation_id": delivery.correlation_id,
        "headers": {text_of(name): value for name, value in delivery.headers.items()},
    }
    return {**summary(letter), "properties": properties}


def body_in_json(body: bytes) -> dict[str, str]:
    """The whole body, as text where it is that."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def body_lines(body: bytes) -> Iterator[str]:
    """Indented where it is JSON, escaped where it is not printable, cut where it is long."""
    text = body[:_SHOWN_BYTES].decode(errors="backslashreplace")
    if len(body) <= _SHOWN_BYTES:
        text = _indented(text)
    for line in text.split("\n"):
        yield text_of(line)
    if len(body) > _SHOWN_BYTES:
        yield f"… {len(body) - _SHOWN_BYTES} more bytes: --json shows all"


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
