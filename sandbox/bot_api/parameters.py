"""Reads a call's parameters from query, urlencoded, JSON or multipart; `app` hands them to `methods`.

File parts are streamed to disk, so that memory does not grow with their size.
"""

import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import BodyPartReader, web

from sandbox.bot_api.errors import Shape, bad_request, entity_too_large

_CHUNK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A received file; `path` lasts until the call is answered unless the store has moved it."""

    path: Path
    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Parameters:
    values: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The parameter as sent, "" if it is absent."""
        return self.values.get(name, "")

    def integer(self, name: str) -> int | None:
        try:
            return int(self.text(name))
        except ValueError:
            return None

    def file(self, name: str) -> Upload | None:
        """The upload in the field itself, or in the field that its attach:// value names."""
        return self.attached(self.text(name)) or self.uploads.get(name)

    def attached(self, reference: str) -> Upload | None:
        """The upload that an attach:// value names."""
        scheme, separator, name = reference.partition("://")
        return self.uploads.get(name) if scheme == "attach" and separator else None

    def json(self, name: str) -> object:
        """The parameter read as JSON, None if it is none."""
        try:
            return json.loads(self.text(name))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Reading:
    """How a body is read: up to `max_bytes`, with a `pause` before each piece of a file.

    `too_large` is the shape of the refusal of one that is larger.
    """

    max_bytes: int
    too_large: Shape
    pause: Callable[[], Awaitable[None]]

    def refuse_oversized(self, request: web.BaseRequest) -> None:
        """Raise ApiError 413 if the body is announced, or has turned out, to be over the limit."""
        if max(request.content_length or 0, request.content.total_bytes) > self.max_bytes:
            raise entity_too_large(self.too_large)


@asynccontextmanager
async def received(request: web.Request, incoming: Path, reading: Reading) -> AsyncIterator[Parameters]:
    """Read the whole request; files that nobody took over are deleted at the end.

    Raises ApiError 400 for a body that cannot be parsed, 413 for one that is too large.
    """
    parameters = Parameters(values=dict(request.query))
    directory = tempfile.TemporaryDirectory(dir=incoming)
    try:
        await _Body(request, parameters, Path(directory.name), reading).read()
        yield parameters
    finally:
        directory.cleanup()


@dataclass(frozen=True, slots=True)
class _Body:
    request: web.Request
    parameters: Parameters
    directory: Path
    reading: Reading

    async def read(self) -> None:
        match self.request.content_type:
            case "multipart/form-data":
                await self._read_multipart()
            case "application/json":
                self.parameters.values.update(_from_json(await self.request.read()))
            case "application/x-www-form-urlencoded":
                form = await self.request.post()
                self.parameters.values.update({name: str(value) for name, value in form.items()})

    async def _read_multipart(self) -> None:
        try:
            async for part in await self.request.multipart():
                if isinstance(part, BodyPartReader) and part.name is not None:
                    await self._read_part(part.name, part)
        except ValueError as error:
            raise bad_request("can't parse the multipart body") from error
        self.reading.refuse_oversized(self.request)

    async def _read_part(self, name: str, part: BodyPartReader) -> None:
        if part.filename is None:
            self.parameters.values[name] = (await part.read()).decode()
            return
        path = self.directory / str(len(self.parameters.uploads))
        size, sha256 = await self._stream(part, path)
        self.parameters.uploads[name] = Upload(path, part.filename, size, sha256)

    async def _stream(self, part: BodyPartReader, path: Path) -> tuple[int, str]:
        """Write the part to `path`; return its size in bytes and its SHA-256."""
        digest = hashlib.sha256()
        # Plain writes go to the page cache: a thread per chunk would cost more than it frees.
        with path.open("wb") as file:
            await self.reading.pause()
            while chunk := await part.read_chunk(_CHUNK_BYTES):
                self.reading.refuse_oversized(self.request)
                digest.update(chunk)
                file.write(chunk)
                await self.reading.pause()
            return file.tell(), digest.hexdigest()


def _from_json(body: bytes) -> Mapping[str, str]:
    try:
        content = json.loads(body or b"{}")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise bad_request("JSON object expected")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}
