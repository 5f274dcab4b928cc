"""The life of a process: begins in `run`, is asked to end by SIGTERM or SIGINT, ends with a code."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import structlog

from shared.runtime import logs
from shared.runtime.settings import ServiceSettings, SettingsError, load
from shared.runtime.stopping import Stopped, Stopping

AnySettings = TypeVar("AnySettings", bound=ServiceSettings)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: Longer than what ends in order takes to end.
_ASK_AGAIN_SECONDS = 2.0

#: What is left of a process whose work has ended has this long to end, too.
END_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Fatal(Exception):
    """The process cannot do its work and a restart by itself will not help; the text says what will."""


def start_service(
    name: str,
    settings_class: type[AnySettings],
    main: Callable[[AnySettings, Stopping], Coroutine[Any, Any, None]],
) -> int:
    """Read the settings, set up logging, run; returns the exit code (2 for wrong settings)."""
    try:
        settings = load(settings_class)
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"pgferry {name}: {problem}\n")
        return 2
    logs.configure(service=name, level=settings.log_level, secrets=settings.secrets())
    log.info("starting", version=version("pgferry"), pid=os.getpid())
    return run(partial(main, settings))


def run(main: Callable[[Stopping], Coroutine[Any, Any, None]]) -> int:
    """Run `main(stopping)` and return the exit code; each SIGTERM or SIGINT asks `stopping` once."""
    with ExitStack() as until_ended:
        return asyncio.run(_with_last_resort(main, until_ended))


async def beside(tasks: Callable[[], Awaitable[None]], *background: Coroutine[Any, Any, None]) -> None:
    """Run `tasks` to its end with `background` beside it; a failure in either ends both."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(endable(coroutine)) for coroutine in background]
        await tasks()
        for task in running:
            task.cancel()


async def endable(background: Coroutine[Any, Any, None]) -> None:
    """Run it, and when cancelled ask it to end until it does.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, by which the AMQP library connects, forgets a
    cancellation that comes as what it waits for ends, and a loop that tries again would go on for ever.
    """
    task = asyncio.create_task(background)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_ASK_AGAIN_SECONDS)
        if not task.cancelled():
            task.exception()  # it ends anyway; asyncio would complain that nobody looked
        raise
    if task.cancelled():
        raise RuntimeError("something was cancelled by nobody of ours: the process cannot go on without it")
    task.result()


async def _with_last_resort(
    main: Callable[[Stopping], Coroutine[Any, Any, None]], until_ended: ExitStack
) -> int:
    code = 1
    try:
        code = await _said(main)
        return code
    finally:
        last_resort = threading.Timer(END_SECONDS, _end_anyhow, [code])
        last_resort.daemon = True
        last_resort.start()
        until_ended.callback(last_resort.cancel)


async def _said(main: Callable[[Stopping], Coroutine[Any, Any, None]]) -> int:
    """Say how `main` ended, while nothing can keep that from being said; returns the exit code."""
    code = 0
    try:
        stopping = Stopping()
        with _heeding(stopping):
            await main(stopping)
    except* Stopped:
        log.info("stopped at once")
    except* Fatal as fatal:
        for reason in _reasons(fatal):
            sys.stderr.write(f"{reason}\n")
        code = 1
    except* Exception as group:
        log.critical("crashed", exc_info=group)  # through the logs, which redact
        code = 1
    return code


@contextmanager
def _heeding(stopping: Stopping) -> Iterator[None]:
    """Ask `stopping` for each signal during the block. After it the process ends by itself, and a signal that
    comes then must not end it with another code.
    """
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stopping.ask)
    try:
        yield
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _end_anyhow(code: int) -> None:
    """The work has ended; a thread on a dead disk or a server's last word is not waited for."""
    log.warning("something does not let the process end: it ends all the same")
    os._exit(code)


def _reasons(group: BaseExceptionGroup[Fatal]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _reasons(error)
        else:
            yield str(error)
