"""The lane of a bot in a chat: a ledger of its posts, `control_plane.lane_entries`, shared by all processes.

Telegram takes about 20 messages a minute from a bot in one chat, in any 60 seconds, and about 30 a second
from a bot in all chats. An entry counts from before its call until the window after the call's end has
passed, so whenever the server counts it, it counts here as well; a bucket that refills would let more than 20
into some windows.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared.storage.executor import Executor

#: Whoever waits asks again far more often; who does not is dead.
WAITING_SECONDS: Final = 30.0

# All lanes of a bot, which has a rule of its own.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(format('pgferry lanes %s', $1::bigint), 0))"

# A holder that does not renew its entry, or whose job is no longer its own, is dead or frozen. A job makes
# one call at a time in a chat: who asks for the next one has none open. The three write to rows of different
# kinds, so one statement may.
WAIT = """
    WITH dead AS (
        UPDATE control_plane.lane_entries AS entry SET state = 'ended', ended_at = clock_timestamp()
         WHERE bot_id = $1 AND chat_id = $2 AND state = 'open'
           AND (lease_until < now()
                OR EXISTS (SELECT FROM control_plane.jobs AS job
                            WHERE job.id = entry.job_id AND coalesce(job.lease_until < now(), true))
                OR job_id = $3)
    ), over AS (
        DELETE FROM control_plane.lane_entries
         WHERE bot_id = $1 AND chat_id = $2
           AND (   (state = 'ended' AND ended_at < now() - make_interval(secs => $6))
                OR (state = 'waiting' AND lease_until < now() AND job_id <> $3)
                OR (state = 'closed' AND closed_until < now()))
    )
    INSERT INTO control_plane.lane_entries (bot_id, chat_id, state, job_id, owner, lease_until)
    VALUES ($1, $2, 'waiting', $3, $4, now() + make_interval(secs => $5))
    ON CONFLICT (bot_id, chat_id, job_id) WHERE state = 'waiting'
    DO UPDATE SET lease_until = excluded.lease_until, owner = excluded.owner
    RETURNING id
"""

# The oldest reservations first. A job has one at a time, so a large one stands in line again after each part.
# What a dead process left open in another chat is ended by nobody if nobody posts there any more.
OPEN = """
    WITH used AS (
        SELECT ended_at FROM control_plane.lane_entries
         WHERE bot_id = $1 AND chat_id = $2 AND state IN ('open', 'ended')
    ), line AS (
        SELECT id, row_number() OVER (ORDER BY waiting_at, id) AS place FROM control_plane.lane_entries
         WHERE bot_id = $1 AND chat_id = $2 AND state = 'waiting'
    ), free AS (
        SELECT coalesce((SELECT place FROM line WHERE id = $3) <= $4 - (SELECT count(*) FROM used), false)
                   AS in_chat,
               $7 = 0 OR $7 > count(*) AS of_bot
          FROM control_plane.lane_entries
         WHERE bot_id = $1
           AND ((state = 'open' AND lease_until >= now())
                OR (state = 'ended' AND ended_at > now() - make_interval(secs => $8)))
    ), closed AS (
        SELECT max(closed_until) AS until FROM control_plane.lane_entries
         WHERE bot_id = $1 AND chat_id = $2 AND state = 'closed'
    ), opened AS (
        UPDATE control_plane.lane_entries
           SET state = 'open', opened_at = clock_timestamp(), lease_until = now() + make_interval(secs => $5)
         WHERE id = $3 AND (SELECT until FROM closed) IS NULL AND (SELECT in_chat AND of_bot FROM free)
        RETURNING id
    )
    SELECT EXISTS (SELECT FROM opened) AS opened,
           greatest(extract(epoch FROM (SELECT until FROM closed) - now()),
                    CASE WHEN (SELECT in_chat FROM free) THEN $8
                         ELSE extract(epoch FROM (SELECT min(ended_at) FROM used) - now()) + $6
                    END)::float8 AS seconds
"""

RENEW = """
    UPDATE control_plane.lane_entries SET lease_until = now() + make_interval(secs => $2)
     WHERE id = $1 AND state = 'open'
"""

# Also of one that was taken for dead: its call counts from its true end.
END = """
    UPDATE control_plane.lane_entries SET state = 'ended', ended_at = clock_timestamp()
     WHERE id = $1 AND state IN ('open', 'ended')
"""

CLOSE = """
    INSERT INTO control_plane.lane_entries (bot_id, chat_id, state, owner, closed_until)
    VALUES ($1, $2, 'closed', $3, now() + make_interval(secs => $4))
"""


@dataclass(frozen=True, slots=True)
class LaneRule:
    """At most `messages` in any `window_seconds` for each bot and chat, and at most `bot_messages` in any
    `bot_window_seconds` for each bot; no messages: no rule.
    """

    messages: int = 20
    window_seconds: float = 60.0
    bot_messages: int = 30
    bot_window_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of the ledger: `opened`, or in line. `seconds`: when something may have changed, if known."""

    id: int
    opened: bool
    seconds: float | None


class Lanes:
    """Used inside one transaction at a time: the bot's lanes are locked until its commit."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def reserve(
        self, bot_id: int, chat_id: int, *, job_id: UUID, owner: str, rule: LaneRule, lease_seconds: float
    ) -> Place:
        """Stand in line, or stay there, and open the entry when it is this one's turn, for `lease_seconds`.

        `job_id` tells who asks again from who comes new; who posts for no job takes any id of its own.
        """
        lane = (bot_id, chat_id)
        await self._executor.execute(LOCK, bot_id)
        entry = await self._executor.fetchval(
            WAIT, *lane, job_id, owner, WAITING_SECONDS, rule.window_seconds
        )
        record = await self._executor.fetchrow(
            OPEN,
            *lane,
            entry,
            rule.messages,
            lease_seconds,
            rule.window_seconds,
            rule.bot_messages,
            rule.bot_window_seconds,
        )
        opened, seconds = record or (False, None)
        return Place(entry, opened, seconds)

    async def renew(self, entry: int, lease_seconds: float) -> None:
        """The call of this entry goes on."""
        await self._executor.execute(RENEW, entry, lease_seconds)

    async def end(self, entry: int) -> None:
        """The call of this entry has ended, however."""
        await self._executor.execute(END, entry)

    async def close(self, bot_id: int, chat_id: int, *, owner: str, seconds: float) -> None:
        """Let nobody open an entry of this lane for `seconds`."""
        await self._executor.execute(CLOSE, bot_id, chat_id, owner, seconds)
