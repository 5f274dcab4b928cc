"""Sends one document and keeps its row true: `sending` before the call, `sent` after the answer.

`Upload` calls it for a job's documents, `services.uploader.files` for those of an operator's file.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from services.uploader.chats import follow
from services.uploader.lane import Lane
from services.uploader.metrics import FLOOD_WAIT_SECONDS, FLOOD_WAITS, SENT, SENT_BYTES, SUSPECTED
from shared.contracts.errors import Failure, LeaseLost, Unavailable
from shared.contracts.manifest import Part
from shared.runtime.startup import until_available
from shared.runtime.stopping import Stopped, unless
from shared.storage.database import Database
from shared.storage.parts import Kind, Sent, Writer
from shared.telegram.client import SentDocument, TelegramChatStore
from shared.telegram.errors import ChatMoved, FloodWait, may_be_done

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sender:
    database: Database
    telegram: TelegramChatStore
    chat_ids: Sequence[int]
    lane: Lane
    _known: dict[int, int] = field(default_factory=dict, init=False)  #: where a chat of the settings is now

    async def by_chat(self, parts: Iterable[Part]) -> Mapping[int, Sequence[Part]]:
        """Which of them go where, in order."""
        chats: dict[int, list[Part]] = {}
        for part in parts:
            chats.setdefault(await self._chat_of(part), []).append(part)
        return chats

    async def send(
        self,
        claim: Writer,
        kind: Kind,
        part: Part,
        *,
        path: Path,
        filename: str,
        caption: str,
        given_up: asyncio.Event,
    ) -> Sent:
        """Send the file when it is this set's turn in the chat: a wait costs no attempt.

        Raises Stopped when it was given up before that turn. Raises LeaseLost before the call when this
        worker may not make it, or after it when it may not record it: the successor then sends the document
        again, and the manifest names that one.
        """
        while not given_up.is_set():
            chat_id = await self._chat_of(part)
            call = partial(
                self.telegram.send,
                path,
                chat_id=chat_id,
                filename=filename,
                caption=caption,
                sha256=part.sha256,
            )
            try:
                sent = await self._in_turn(claim, kind, part, call, chat_id=chat_id, given_up=given_up)
            except (FloodWait, Failure) as error:
                await unless(given_up, self._heed(error, chat_id))
            else:
                await until_available(partial(self._record, claim, kind, part, sent))
                return sent
        raise Stopped

    async def _in_turn(
        self,
        claim: Writer,
        kind: Kind,
        part: Part,
        call: Callable[[], Awaitable[SentDocument]],
        *,
        chat_id: int,
        given_up: asyncio.Event,
    ) -> Sent:
        try:
            async with AsyncExitStack() as turn:
                waiting = self.lane.turn(self.telegram.bot_id, chat_id, claim.job_id)
                await unless(given_up, turn.enter_async_context(waiting))
                await self._announce(claim, kind, part, chat_id)
                return self._sent(await call())
        except (FloodWait, Failure) as error:
            if not may_be_done(error):
                await self._take_back(claim, kind, part)
            raise

    async def post(self, part: Part, *, path: Path, filename: str, caption: str) -> Sent:
        """Send the file in its turn, and write no row. Raises a Failure."""
        while True:
            chat_id = await self._chat_of(part)
            try:
                async with self.lane.turn(self.telegram.bot_id, chat_id, job_id=None):
                    return self._sent(
                        await self.telegram.send(
                            path, chat_id=chat_id, filename=filename, caption=caption, sha256=part.sha256
                        )
                    )
            except (FloodWait, Failure) as error:
                await self._heed(error, chat_id)

    async def _chat_of(self, part: Part) -> int:
        """Asked of the database once: that a chat has moved since, Telegram says."""
        chat_id = self.chat_ids[part.index % len(self.chat_ids)]
        if chat_id not in self._known:
            async with self.database.session() as session:
                self._known[chat_id] = await session.chats.now(chat_id)
        return self._known[chat_id]

    async def _heed(self, answer: FloodWait | Failure, chat_id: int) -> None:
        """Do what Telegram asks before the next try: wait, or go where the chat is now. Raises all else."""
        match answer:
            case FloodWait():
                await self._sit_out(answer)
            case ChatMoved():
                await follow(self.database, chat_id, answer)
                self._known.clear()
            case _:
                raise answer

    async def _sit_out(self, wait: FloodWait) -> None:
        log.info("Telegram asks to wait", seconds=wait.seconds)
        FLOOD_WAITS.inc()
        FLOOD_WAIT_SECONDS.inc(wait.seconds)
        await self.lane.sit_out(wait)

    async def _announce(self, claim: Writer, kind: Kind, part: Part, chat_id: int) -> None:
        async with self.database.session() as session:
            again = await session.parts.sending(
                claim, kind, part.index, bot_id=self.telegram.bot_id, chat_id=chat_id
            )
        if again:
            SUSPECTED.inc()
            log.warning("sent again: the outcome of the call before is not known", index=part.index)

    async def _take_back(self, claim: Writer, kind: Kind, part: Part) -> None:
        """A call that came to nothing is not suspected. If this cannot be written, it is: nothing is lost."""
        with suppress(Unavailable, LeaseLost):
            async with self.database.session() as session:
                await session.parts.not_sent(claim, kind, part.index)

    def _sent(self, receipt: SentDocument) -> Sent:
        return Sent(
            bot_id=self.telegram.bot_id,
            chat_id=receipt.chat_id,
            message_id=receipt.message_id,
            file_id=receipt.file_id,
            file_unique_id=receipt.file_unique_id,
        )

    async def _record(self, claim: Writer, kind: Kind, part: Part, sent: Sent) -> None:
        """Worth repeating for as long as the lease lives: without it the document must be sent again."""
        async with self.database.session() as session:
            await session.parts.sent(claim, kind, part.index, sent=sent)
        SENT.labels(kind.value).inc()
        SENT_BYTES.inc(part.size_bytes)
