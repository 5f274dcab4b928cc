"""Runs the stages: one thread each, one pipe between two, one verdict for all.

Called by `services.exporter.export` with the read end of pg_dump's output.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import FileIO

from services.exporter.stages import Stage

#: A pipe of 64 KiB makes writer and reader wake each other 16 times as often.
PIPE_BYTES = 1024 * 1024


def open_pipe() -> tuple[FileIO, FileIO]:
    """A pipe as (read end, write end), closed in children."""
    read_end, write_end = os.pipe()
    with contextlib.suppress(PermissionError):  # the user's limit on pipe memory is used up
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return FileIO(read_end, "rb"), FileIO(write_end, "wb")


async def run_stages(stages: Sequence[Stage], source: FileIO, *, stop: Callable[[], None]) -> None:
    """Pass `source` through all stages. Returns when every thread has ended.

    `stop` ends what feeds `source`; it is called when a stage fails and when this is cancelled, since
    threads end only with their input. Raises the error of the stage that failed of itself: one that
    merely lost its neighbour (BrokenPipeError) is not the cause.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=len(stages), thread_name_prefix="stage") as threads:
        runs = [
            loop.run_in_executor(threads, _run, stage, *ends)
            for stage, ends in zip(stages, _joined(source, len(stages)), strict=True)
        ]
        try:
            await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if not all(run.done() and run.exception() is None for run in runs):
                stop()
            await asyncio.wait(runs)
    errors = [error for run in runs if (error := run.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenPipeError)):
        raise error


def _joined(source: FileIO, stages: int) -> list[tuple[FileIO, FileIO]]:
    """Source and sink of each stage; what the last one writes goes nowhere.

    All pipes are opened before any thread begins: one that begins beside a failure would wait for ever.
    """
    with ExitStack() as opened:
        sources, sinks = [opened.enter_context(source)], []
        for _ in range(stages):
            read_end, write_end = open_pipe()
            sources.append(opened.enter_context(read_end))
            sinks.append(opened.enter_context(write_end))
        opened.pop_all()
    sources.pop().close()
    return list(zip(sources, sinks, strict=True))


def _run(stage: Stage, source: FileIO, sink: FileIO) -> None:
    with source, sink:
        stage(source, sink)
