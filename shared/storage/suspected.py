"""Documents that may be in a chat without a row of their own: `control_plane.suspected_sends`.

`parts` and `superseded` write a row for each call whose answer was lost. The uploader's duty reads which
message ids the document can only have, and says when they are dealt with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.storage.executor import Executor

# What was recorded before the call has a lower id. Ids grow with time, so what is searched for in their order
# is soon found, if each table is searched for itself: the union of both would be read whole.
_LAST_KNOWN = """
    greatest((SELECT message_id FROM control_plane.backup_parts AS known
               WHERE known.chat_id = before.chat_id AND message_id IS NOT NULL
                 AND known.sent_at <= before.sending_at
               ORDER BY message_id DESC LIMIT 1),
             (SELECT max(message_id) FROM control_plane.catalogues AS known
               WHERE known.chat_id = before.chat_id AND known.sent_at <= before.sending_at))
"""

# Of rows named `before`, each of a call that was never answered.
SUSPECT = f"""
    INSERT INTO control_plane.suspected_sends
        (job_id, dump_fence, kind, index, bot_id, chat_id, size_bytes, sha256, sending_at,
         last_known_message_id)
    SELECT job_id, dump_fence, kind, index, bot_id, chat_id, size_bytes, sha256, sending_at, {_LAST_KNOWN}
      FROM before
"""

# The call began before the id was given, and the answer was recorded after.
_LATER = """
    SELECT message_id, sent_at
      FROM ((SELECT message_id, sent_at FROM control_plane.backup_parts AS known
              WHERE known.chat_id = suspected.chat_id AND message_id > last_known_message_id
                AND known.sending_at >= suspected_at
              ORDER BY message_id LIMIT 1)
            UNION ALL
            (SELECT message_id, sent_at FROM control_plane.catalogues AS known
              WHERE known.chat_id = suspected.chat_id AND message_id > last_known_message_id
                AND reserved_at >= suspected_at
              ORDER BY message_id LIMIT 1)) AS known
     ORDER BY message_id LIMIT 1
"""

# Ids that no row names, whatever became of the message.
_UNNAMED = """
    SELECT number FROM generate_series(last_known_message_id + 1, later.message_id - 1) AS number
     WHERE NOT EXISTS (SELECT FROM control_plane.backup_parts AS known
                        WHERE known.chat_id = suspected.chat_id AND known.message_id = number)
       AND NOT EXISTS (SELECT FROM control_plane.catalogues AS known
                        WHERE known.chat_id = suspected.chat_id AND known.message_id = number)
     ORDER BY number LIMIT $5
"""

# The gap ends at the first message that was sent later. It is left alone while the answer to a call that
# began before that message was recorded may still be recorded: such a row is `sending`. A catalogue's row is
# no such sign, for one whose answer was lost stays so: what it may record it records within its round, and
# the last message's age waits for that. An id that nobody knows then will never be anybody's.
GAPS = f"""
    SELECT id, chat_id, ARRAY({_UNNAMED}) AS message_ids
      FROM control_plane.suspected_sends AS suspected CROSS JOIN LATERAL ({_LATER}) AS later
     WHERE resolved_at IS NULL AND chat_id = ANY($2::bigint[]) AND bot_id = $1
       AND suspected_at > now() - make_interval(secs => $3)
       AND sending_at > now() - make_interval(secs => $3)
       AND later.sent_at < now() - make_interval(secs => $4)
       AND NOT EXISTS (SELECT FROM control_plane.backup_parts AS part
                        WHERE part.chat_id = suspected.chat_id AND part.message_id IS NULL
                          AND part.status = 'sending' AND part.sending_at <= later.sent_at)
     ORDER BY id
"""

RESOLVED = """
    UPDATE control_plane.suspected_sends SET resolved_at = now(), found_message_id = $2
     WHERE id = $1 AND resolved_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Gap:
    """Of one suspected send: the ids that its document can have, and that nobody has. It may have come to
    nothing, or be gone, and other calls that were never answered may have left theirs.
    """

    id: int
    chat_id: int
    message_ids: Sequence[int]


class SuspectedSends:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def gaps(
        self, bot_id: int, chat_ids: Sequence[int], *, younger_than: float, settled: float, at_most: int
    ) -> Sequence[Gap]:
        """Those that are not resolved, with at most so many ids.

        Seconds: of the call, `younger_than`; since the message that ends the gap was recorded, `settled`.
        """
        records = await self._executor.fetch(GAPS, bot_id, chat_ids, younger_than, settled, at_most + 1)
        gaps = [Gap(**record) for record in records]
        return [gap for gap in gaps if len(gap.message_ids) <= at_most]

    async def resolve(self, gap: Gap) -> None:
        """There is nothing left in the gap; a single id was the document's."""
        found = gap.message_ids[0] if len(gap.message_ids) == 1 else None
        await self._executor.execute(RESOLVED, gap.id, found)
