"""The proxy between a process and a server: what passes, and what each knob does to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from sandbox.tcp_proxy import Proxies, TcpProxy, Way
from tests.waiting import eventually

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[TcpProxy], Awaitable[Streams]]


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    """A server that answers each piece with the same piece."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
def proxy(echo_port: int) -> Iterator[TcpProxy]:
    with Proxies() as proxies:
        yield proxies.open(echo_port)


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """Opens connections through a proxy; they are closed after the test."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(proxy: TcpProxy) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.transport.abort()


async def _echoed(streams: Streams, text: bytes) -> bytes:
    reader, writer = streams
    writer.write(text)
    return await asyncio.wait_for(reader.readexactly(len(text)), 30)


async def test_everything_passes_and_so_does_the_end(proxy: TcpProxy, connected: Connect) -> None:
    """Bytes come back as they were, and an end of the client's reaches the server and comes back."""
    streams = await connected(proxy)
    assert await _echoed(streams, b"x" * 300_000) == b"x" * 300_000
    streams[1].write_eof()
    assert await asyncio.wait_for(streams[0].read(), 30) == b""

    async def closed() -> bool:
        return proxy.connections == 0

    await eventually(closed)


async def test_a_cut_resets_some_connections(proxy: TcpProxy, connected: Connect) -> None:
    """Every second open connection is reset; the others, and new ones, go on."""
    first, second = await connected(proxy), await connected(proxy)
    for streams in (first, second):
        await _echoed(streams, b"hello")
    assert proxy.cut(every=2) == 1
    ends = await asyncio.gather(_echoed(first, b"a"), _echoed(second, b"a"), return_exceptions=True)
    assert sorted(isinstance(end, (ConnectionError, EOFError)) for end in ends) == [False, True]
    assert await _echoed(await connected(proxy), b"again") == b"again"


async def test_a_connection_is_cut_at_a_byte_once(proxy: TcpProxy, connected: Connect) -> None:
    """The bytes before the one that is named arrive at the server, and only one connection is cut."""
    streams = await connected(proxy)
    proxy.cut_after(1000)
    with pytest.raises((ConnectionError, EOFError)):
        await _echoed(streams, b"x" * 5000)
    assert await _echoed(await connected(proxy), b"y" * 5000) == b"y" * 5000


async def test_a_delay_holds_each_piece_back(proxy: TcpProxy, connected: Connect) -> None:
    """There and back takes at least twice the delay; afterwards it is quick again."""
    streams = await connected(proxy)
    proxy.delay(0.3)
    started = time.monotonic()
    assert await _echoed(streams, b"slow") == b"slow"
    assert time.monotonic() - started >= 0.6
    proxy.pass_again()
    assert await _echoed(streams, b"quick") == b"quick"


@pytest.mark.parametrize("ways", [frozenset(Way), frozenset({Way.TO_SERVER}), frozenset({Way.TO_CLIENT})])
async def test_what_is_swallowed_never_arrives(
    proxy: TcpProxy, connected: Connect, ways: frozenset[Way]
) -> None:
    """No answer and no error while it lasts, for old and new connections; then those are reset."""
    proxy.swallow(ways)
    streams = await connected(proxy)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await _echoed(streams, b"lost")
    assert proxy.connections == 1
    proxy.pass_again()
    with pytest.raises((ConnectionError, EOFError)):
        await _echoed(streams, b"after")
    assert await _echoed(await connected(proxy), b"new") == b"new"


async def test_an_end_is_swallowed_too(proxy: TcpProxy, connected: Connect) -> None:
    """A client that dies behind a black hole leaves its server's connection open until the hole is gone."""
    streams = await connected(proxy)
    await _echoed(streams, b"hello")
    proxy.swallow()
    streams[1].transport.abort()
    await asyncio.sleep(0)
    assert proxy.connections == 1
    proxy.pass_again()

    async def gone() -> bool:
        return proxy.connections == 0

    await eventually(gone)


async def test_a_server_that_is_away_resets_its_clients(proxy: TcpProxy, connected: Connect) -> None:
    """As without a proxy, a client hears at once that nobody listens."""
    with Proxies() as proxies:
        nobody = proxies.open(1)
        with pytest.raises((ConnectionError, EOFError)):
            await _echoed(await connected(nobody), b"hello")
