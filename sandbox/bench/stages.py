"""What each stage of the exporter's pipeline costs: the processor time of its thread, on a stored dump.

The stages, threads and pipes are the exporter's own; only pg_dump is replaced by a file, so that nothing
waits and no time of another process is counted.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from io import FileIO
from typing import TYPE_CHECKING

from services.exporter.pipeline import run_stages
from services.exporter.stages import Cut, Encrypt, ReadAndCount, compress_zstd
from shared.runtime.worker import Progress
from shared.storage.spool import Prefix

if TYPE_CHECKING:
    from pathlib import Path

    from services.exporter.stages import Stage

_PART_BYTES = 19 * 1024 * 1024


@dataclass(slots=True)
class _Clocked:
    """A stage that knows how much of the processor its thread has used."""

    stage: Stage
    seconds: float = 0.0

    def __call__(self, source: FileIO, sink: FileIO) -> None:
        before = time.thread_time()
        self.stage(source, sink)
        self.seconds += time.thread_time() - before


@dataclass(slots=True)
class _ClockedDigest:
    """SHA-256 that knows its cost, which is a part of its stage's."""

    seconds: float = 0.0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def update(self, piece: memoryview) -> None:
        before = time.thread_time()
        self._digest.update(piece)
        self.seconds += time.thread_time() - before

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


async def stage_seconds(plain: Path, *, recipient: str) -> dict[str, float]:
    """Pass the stored stream through the pipeline once; seconds of each stage, hashing apart."""
    prefix = Prefix(plain.parent / "stages" / "1")
    prefix.create()
    progress = Progress()
    of_plain, of_stored = _ClockedDigest(), _ClockedDigest()
    read = _Clocked(ReadAndCount(progress, _digest=of_plain))  # type: ignore[arg-type] # as hashlib's
    compress = _Clocked(compress_zstd)
    encrypt = _Clocked(Encrypt([recipient]))
    cut = _Clocked(Cut(prefix, _PART_BYTES, progress, _digest=of_stored))  # type: ignore[arg-type] # as hashlib's
    try:
        await run_stages([read, compress, encrypt, cut], FileIO(plain, "rb"), stop=lambda: None)
    finally:
        prefix.remove()
    parts = of_stored.seconds  # the same bytes once more, part by part
    return {
        "read and count": read.seconds - of_plain.seconds,
        "compress (zstd)": compress.seconds,
        "encrypt (age)": encrypt.seconds,
        "hash (plain, stored, parts)": of_plain.seconds + of_stored.seconds + parts,
        "cut and write": cut.seconds - of_stored.seconds - parts,
    }
