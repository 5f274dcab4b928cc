"""TCP proxies on loopback that can cut, delay and swallow what passes through them.

Called by the chaos runs, which put one between each process and each server it speaks to. All proxies of one
`Proxies` share a thread with an event loop; their methods are called from any other thread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from types import TracebackType

_PIECE_BYTES: Final = 64 * 1024
_ANSWER_SECONDS: Final = 30.0
#: With this a closed socket sends RST at once: the other side sees an error, not an end.
_NO_LINGER: Final = struct.pack("ii", 1, 0)

Answer = TypeVar("Answer")


class Way(StrEnum):
    """Where the bytes go."""

    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"


BOTH_WAYS: Final = frozenset(Way)


@dataclass(slots=True, eq=False)
class _Link:
    """One connection of a client, and ours to the server."""

    writers: list[asyncio.StreamWriter]
    damaged: bool = False
    """Bytes of it, or its end, were swallowed: it can never be whole again."""

    def reset(self) -> None:
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()


@dataclass(slots=True)
class _Knobs:
    delay_seconds: float = 0.0
    swallowed: frozenset[Way] = frozenset()
    bytes_until_cut: int | None = None


@dataclass(slots=True, eq=False, repr=False)
class TcpProxy:
    """Listens on `port`, speaks to `target_port`; passes everything until it is told otherwise."""

    target_port: int
    _loop: asyncio.AbstractEventLoop
    port: int = 0
    _knobs: _Knobs = field(default_factory=_Knobs)
    _links: list[_Link] = field(default_factory=list)  #: the oldest first
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many are open now."""
        return self._called(lambda: len(self._links))

    def cut(self, *, every: int = 1) -> int:
        """Reset every `every`-th open connection, beginning with the first; returns how many."""
        return self._called(lambda: self._reset(self._links[::every]))

    def cut_after(self, count: int) -> None:
        """Reset the connection that carries the `count`-th byte from now, once."""
        self._called(lambda: setattr(self._knobs, "bytes_until_cut", count))

    def delay(self, seconds: float) -> None:
        """Hold each piece back for so long."""
        self._called(lambda: setattr(self._knobs, "delay_seconds", seconds))

    def swallow(self, ways: frozenset[Way] = BOTH_WAYS) -> None:
        """Accept connections and bytes and let none of them through; ends of connections neither."""
        self._called(lambda: setattr(self._knobs, "swallowed", ways))

    def pass_again(self) -> None:
        """Turn every knob back; connections that lost something are reset."""
        self._called(self._heal)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset(list(self._links))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _called(self, function: Callable[[], Answer]) -> Answer:
        async def call() -> Answer:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_ANSWER_SECONDS)

    def _heal(self) -> None:
        self._knobs = _Knobs()
        self._reset([link for link in self._links if link.damaged])

    def _reset(self, links: list[_Link]) -> int:
        for link in links:
            link.reset()
            self._forget(link)
        return len(links)

    def _forget(self, link: _Link) -> None:
        if link in self._links:
            self._links.remove(link)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link([writer])
        self._links.append(link)
        task = asyncio.ensure_future(self._carry(link, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            self._reset([link])
            return
        link.writers.append(back)
        if link not in self._links:  # it was cut meanwhile
            link.reset()
            return
        await asyncio.gather(
            self._pump(link, reader, back, Way.TO_SERVER), self._pump(link, there, writer, Way.TO_CLIENT)
        )
        if not link.damaged:
            self._close(link)

    def _close(self, link: _Link) -> None:
        for writer in link.writers:
            writer.close()
        self._forget(link)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way
    ) -> None:
        try:
            while piece := await reader.read(_PIECE_BYTES):
                await self._pass(link, piece, writer, way)
            if way in self._knobs.swallowed:
                link.damaged = True
            elif not link.damaged and writer.can_write_eof():
                writer.write_eof()
        except OSError:
            if self._knobs.swallowed:
                link.damaged = True
            else:
                self._reset([link])

    async def _pass(self, link: _Link, piece: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        if self._knobs.delay_seconds:
            await asyncio.sleep(self._knobs.delay_seconds)
        if way in self._knobs.swallowed:
            link.damaged = True
            return
        allowed = self._allowed(len(piece))
        writer.write(piece[:allowed])
        await writer.drain()
        if allowed < len(piece):
            self._reset([link])

    def _allowed(self, size: int) -> int:
        """How many bytes of the next `size` may pass."""
        left = self._knobs.bytes_until_cut
        if left is None:
            return size
        self._knobs.bytes_until_cut = left - size if left > size else None
        return min(left, size) if left > size else left - 1


def swallow_all(proxies: Iterable[TcpProxy], ways: frozenset[Way] = BOTH_WAYS) -> None:
    for proxy in proxies:
        proxy.swallow(ways)


def pass_again_all(proxies: Iterable[TcpProxy]) -> None:
    for proxy in proxies:
        proxy.pass_again()


class Proxies:
    """The thread that all proxies share, for the time of a `with` block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxies", daemon=True)
        self._proxies: list[TcpProxy] = []

    def open(self, target_port: int) -> TcpProxy:
        """A new proxy on a free port."""
        proxy = TcpProxy(target_port, self._loop)
        self._await(proxy.open())
        self._proxies.append(proxy)
        return proxy

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._proxies:
            self._await(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_SECONDS)
        self._loop.close()

    def _await(self, coroutine: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_ANSWER_SECONDS)
