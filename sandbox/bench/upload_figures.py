"""What `./run bench upload` has measured, as it was; `sandbox.bench.upload_report` makes tables of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.bench.figures import Rounds

UPLOADER = "uploader, from the claim to the manifest's answer"
LOOP = "bare loop of `send_document`"
CURL = "`curl -F`, one process each"


@dataclass(frozen=True, slots=True)
class LaneRun:
    """One dump whose documents, the manifest among them, took turns in the lanes of so many chats."""

    documents: int
    chats: int
    seconds: float  #: from the first reservation to the manifest's answer
    one_document: float  #: median, in seconds
    refused: int  #: answers with 429

    def floor_seconds(self, messages: int, window_seconds: float) -> float:
        """What the rule alone takes; the first chat gets the manifest beside its share."""
        in_first_chat = ceil((self.documents - 1) / self.chats) + 1
        return window_seconds * ((in_first_chat - 1) // messages) + self.one_document


@dataclass(frozen=True, slots=True)
class UploadPeaks:
    """Most resident memory of one uploader's process, in bytes, in the order in which it grew."""

    start: int
    few: int  #: after a dump of few parts
    many: int
    at_once: int  #: after several dumps at the same time
    jobs: int


@dataclass(frozen=True, slots=True)
class UploadFigures:
    machine: dict[str, str]
    messages: int  #: in a window, for each chat
    window_seconds: float
    lanes: list[LaneRun]
    parts: int
    few_parts: int
    part_bytes: int
    seconds: Rounds  #: for all parts
    peaks: UploadPeaks

    @property
    def bytes_for_further_upload(self) -> float:
        return (self.peaks.at_once - self.peaks.many) / (self.peaks.jobs - 1)

    def floor_seconds(self, run: LaneRun) -> float:
        return run.floor_seconds(self.messages, self.window_seconds)

    def lane_runs(self, documents: int, chats: int) -> list[LaneRun]:
        return [run for run in self.lanes if (run.documents, run.chats) == (documents, chats)]
