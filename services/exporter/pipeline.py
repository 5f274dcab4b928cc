"""Runs the stages: one thread each, one pipe between two, one verdict for all.

Called by `services.exporter.export` with the read end of pg_dump's output.
"""

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import FileIO

import structlog

from services.exporter.stages import Stage
from shared.runtime.spool_calls import FROZEN_SECONDS

#: A pipe of 64 KiB makes writer and reader wake each other 16 times as often.
PIPE_BYTES = 1024 * 1024

log = structlog.get_logger(__name__)


def open_pipe() -> tuple[FileIO, FileIO]:
    """A pipe as (read end, write end), closed in children."""
    read_end, write_end = os.pipe()
    with contextlib.suppress(PermissionError):  # the user's limit on pipe memory is used up
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return FileIO(read_end, "rb"), FileIO(write_end, "wb")


async def run_stages(stages: Sequence[Stage], source: FileIO, *, stop: Callable[[], None]) -> None:
    """Pass `source` through all stages. Returns when every thread has ended.

    `stop` ends what feeds `source`; it is called when a stage fails and when this is cancelled, since
    threads end only with their input. One that even then does not end, for it waits on a disk that does not
    answer, is left behind after a while: the tenant's locks are not to wait for it. Raises the error of the
    stage that failed of itself: one that merely lost its neighbour (BrokenPipeError) is not the cause.
    """
    runs = [_begin(stage, *ends) for stage, ends in zip(stages, _joined(source, len(stages)), strict=True)]
    try:
        await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        if not all(run.done() and run.exception() is None for run in runs):
            stop()
            _, frozen = await asyncio.wait(runs, timeout=FROZEN_SECONDS)
            if frozen:
                log.warning("stages do not end and are left behind", stages=len(frozen))
    errors = [error for run in runs if run.done() and (error := run.exception()) is not None]
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


def _begin(stage: Stage, source: FileIO, sink: FileIO) -> asyncio.Future[None]:
    """Run the stage in a thread that keeps nobody waiting, the end of the process included."""
    loop = asyncio.get_running_loop()
    run = loop.create_future()
    run.add_done_callback(asyncio.Future.exception)  # of one that is left behind nobody asks

    def run_stage() -> None:
        error: BaseException | None = None
        try:
            with source, sink:
                stage(source, sink)
        except BaseException as raised:  # noqa: BLE001 - for whoever waits
            error = raised
        with contextlib.suppress(RuntimeError):  # it was left behind, and the loop is gone
            loop.call_soon_threadsafe(_settle, run, error)

    try:
        threading.Thread(target=run_stage, name="stage", daemon=True).start()
    except RuntimeError as error:  # no thread to be had: to the neighbours it is as if the stage had failed
        source.close()
        sink.close()
        _settle(run, error)
    return run


def _settle(run: asyncio.Future[None], error: BaseException | None) -> None:
    if error is None:
        run.set_result(None)
    else:
        run.set_exception(error)
