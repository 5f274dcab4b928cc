"""Outbox rows that should have left long ago: a duty of every service wakes all relays for them."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from shared.storage.database import Database
from shared.storage.nudges import OUTBOX

KINDS = ("left_over",)

#: More need not be counted to know that something is wrong.
_AT_MOST = 1000

COUNT = """
    SELECT count(*) FROM (
        SELECT FROM control_plane.outbox
         WHERE sent_at IS NULL AND run_after < now() - make_interval(secs => $1)
         LIMIT $2) AS left_over
"""


log = structlog.get_logger(__name__)


@dataclass(slots=True)
class LeftOver:
    database: Database
    after_seconds: float  #: a relay that lives takes a due row within seconds
    _told: bool = False

    async def __call__(self) -> Mapping[str, int]:
        async with self.database.session() as session:
            count: int = await session.executor.fetchval(COUNT, self.after_seconds, _AT_MOST)
        if count:
            self.database.nudges.send(OUTBOX)
        if count and not self._told:
            log.warning("messages have waited for a relay for long", at_least=count)
        self._told = count > 0
        return {"left_over": count}
