"""The content of a file, whole or spoiled; `app` asks once the link is known to be valid."""

import asyncio
from pathlib import Path

from aiohttp import web

from sandbox.bot_api.knobs import Loss

_BYTES = "application/octet-stream"


async def download(request: web.Request, blob: Path, loss: Loss | None) -> web.StreamResponse:
    if loss is Loss.CUT:
        return await _cut(request, await asyncio.to_thread(blob.read_bytes))
    if loss is Loss.ALTERED:
        return web.Response(body=_altered(await asyncio.to_thread(blob.read_bytes)), content_type=_BYTES)
    return web.FileResponse(blob, headers={"Content-Type": _BYTES})


async def _cut(request: web.Request, content: bytes) -> web.StreamResponse:
    """Announce all, send half, and hang up."""
    reply = web.StreamResponse(headers={"Content-Type": _BYTES, "Content-Length": str(len(content))})
    await reply.prepare(request)
    await reply.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return reply


def _altered(content: bytes) -> bytes:
    """The same length with its middle byte turned round."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
