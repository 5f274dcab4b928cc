"""`./run bench upload`: what is measured, in which order.

What is compared is alternated in one run on the same files: a busy machine then slows all alike.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import telegram

from sandbox.bench.export import alternated
from sandbox.bench.figures import MIB
from sandbox.bench.machine import machine_facts
from sandbox.bench.upload_figures import (
    CURL,
    LOOP,
    UPLOADER,
    LaneRun,
    UploadFigures,
    UploadPeaks,
)
from sandbox.bench.upload_plant import CHATS, PROJECTS, open_upload_plant
from sandbox.bench.upload_rivals import Rivals
from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.bench.export import Run
    from sandbox.bench.figures import Rounds
    from sandbox.bench.upload_plant import Stock, Uploader, UploadPlant
    from sandbox.narration import Narration

#: Telegram's own, at 1:20.
RULES = Rules.at(20)
_LANE_PART_BYTES = 64 * 1024
_FEW_PARTS = 2


@dataclass(frozen=True, slots=True)
class UploadBench:
    """One run of the bench; the fields are its options."""

    documents: Sequence[int]
    parts: int
    mebibytes: int
    rounds: int
    narration: Narration

    async def __call__(self) -> UploadFigures:
        async with open_upload_plant() as plant:
            machine = await machine_facts(plant.owner, _versions())
            lanes = await self._lanes(plant)
            with self.narration.step(f"{self.parts} files of {self.mebibytes} MiB"):
                stock = plant.stock("large", files=self.parts, size=self.mebibytes * MIB)
            with _stand_in(plant, "unlimited", Rules.none()) as api:
                seconds = await self._bytes(plant, api, stock)
                peaks = await self._memory(plant, api, stock)
            return UploadFigures(
                machine=machine,
                messages=RULES.messages,
                window_seconds=RULES.window_seconds,
                lanes=lanes,
                parts=self.parts,
                few_parts=_FEW_PARTS,
                part_bytes=self.mebibytes * MIB,
                seconds=seconds,
                peaks=peaks,
            )

    async def _lanes(self, plant: UploadPlant) -> list[LaneRun]:
        stock = plant.stock("small", files=max(self.documents) - 1, size=_LANE_PART_BYTES)
        runs = []
        with _stand_in(plant, "strict", RULES) as api:
            for turn in range(self.rounds):
                for chats in (CHATS[:1], CHATS) if turn % 2 == 0 else (CHATS, CHATS[:1]):
                    runs += await self._lane(plant, api, chats, stock)
        return runs

    async def _lane(
        self, plant: UploadPlant, api: BotApi, chats: Sequence[int], stock: Stock
    ) -> list[LaneRun]:
        """A new process; before each run the stand-in has forgotten the posts of the one before."""
        async with plant.uploader(
            api,
            TELEGRAM_CHAT_ID=",".join(map(str, chats)),
            PGFERRY_LANE_MESSAGES=RULES.messages,
            PGFERRY_LANE_WINDOW_SECONDS=RULES.window_seconds,
            PGFERRY_BOT_WINDOW_SECONDS=RULES.bot_window_seconds,
        ) as uploader:
            runs = []
            for documents in self.documents:
                with self.narration.step(f"{documents} documents, chats: {len(chats)}"):
                    api.advance_clock(RULES.window_seconds)
                    runs.append(await _in_lanes(uploader, api, documents, len(chats), stock))
        return runs

    async def _bytes(self, plant: UploadPlant, api: BotApi, stock: Stock) -> Rounds:
        """A first round is discarded: the stand-in then has every file."""
        rivals = Rivals(api.url, plant.stack.bot_token, CHATS[0], stock.paths)
        async with plant.uploader(api) as uploader:
            runs: dict[str, Run] = {
                UPLOADER: partial(_whole, uploader, stock),
                LOOP: rivals.loop,
                CURL: rivals.curl,
            }
            with self.narration.step("one discarded round"):
                await alternated(1, runs)
            with self.narration.step(f"{self.parts} parts of {self.mebibytes} MiB, {self.rounds} rounds"):
                return await alternated(self.rounds, runs)

    async def _memory(self, plant: UploadPlant, api: BotApi, stock: Stock) -> UploadPeaks:
        with self.narration.step(f"peak memory at {_FEW_PARTS} and {self.parts} parts, and several at once"):
            async with plant.uploader(api, PGFERRY_UPLOADER_SLOTS=len(PROJECTS)) as uploader:
                start = uploader.peak_bytes()
                await uploader.upload(stock.parts[:_FEW_PARTS], stock=stock)
                few = uploader.peak_bytes()
                await uploader.upload(stock.parts, stock=stock)
                many = uploader.peak_bytes()
                await uploader.upload(*[stock.parts] * len(PROJECTS), stock=stock)
                return UploadPeaks(start, few, many, at_once=uploader.peak_bytes(), jobs=len(PROJECTS))


def _stand_in(plant: UploadPlant, name: str, rules: Rules) -> BotApi:
    return BotApi(plant.stack.directory / name, tokens=[plant.stack.bot_token], chats=CHATS, rules=rules)


async def _in_lanes(uploader: Uploader, api: BotApi, documents: int, chats: int, stock: Stock) -> LaneRun:
    refused = _refused(api)
    uploaded = await uploader.upload(stock.parts[: documents - 1], stock=stock)
    assert uploaded.since_reservation is not None  # noqa: S101 - this uploader has lanes
    return LaneRun(
        documents, chats, uploaded.since_reservation, uploaded.one_document, _refused(api) - refused
    )


def _refused(api: BotApi) -> int:
    return api.calls().get("sendDocument", {}).get(429, 0)


async def _whole(uploader: Uploader, stock: Stock) -> float:
    return (await uploader.upload(stock.parts, stock=stock)).since_claim


def _versions() -> dict[str, str]:
    curl = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+\.\d+\.\d+", curl)
    return {"python-telegram-bot": telegram.__version__, "curl": found[0] if found else curl}
