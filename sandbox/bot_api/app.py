"""The server's routes: Bot API calls and file downloads; `__main__` runs it.

A call is refused or read here, passes the knobs, goes on to its method, and passes the knobs again.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from aiohttp import web

from sandbox.bot_api.downloads import download
from sandbox.bot_api.errors import (
    MAX_BODY_BYTES,
    MAX_LOCAL_BODY_BYTES,
    ApiError,
    entity_too_large,
    not_found,
)
from sandbox.bot_api.knobs import DOWNLOAD, ConnectionDropped, Fault, Knobs, Loss
from sandbox.bot_api.methods import MAX_DOWNLOAD_BYTES, METHODS, Call, Method, Settings, updates
from sandbox.bot_api.parameters import Reading, received
from sandbox.bot_api.queues import Polls, Queues
from sandbox.bot_api.replies import as_music, failure, success
from sandbox.bot_api.store import Store, StoredFile

_SENDINGS: Final = frozenset({"sendDocument", "sendMessage"})
_POLL: Final = "getUpdates"


@dataclass(frozen=True, slots=True)
class Server:
    """What the routes share; `answered` counts calls by (method, HTTP status)."""

    settings: Settings
    store: Store
    queues: Queues
    polls: Polls = field(default_factory=Polls)
    knobs: Knobs = field(default_factory=Knobs)
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)


SERVER: Final = web.AppKey("server", Server)


def bot_id_of(token: str) -> int | None:
    """The bot's id, which a token starts with; None if the token is malformed."""
    number, separator, secret = token.partition(":")
    if not (number.isascii() and number.isdecimal() and separator and secret) or number.startswith("0"):
        return None
    return int(number)


def create_app(server: Server) -> web.Application:
    app = web.Application(middlewares=[_refusals_as_json])
    app[SERVER] = server
    app.router.add_route("*", "/bot{token:[^/]+}/{method}", _call)
    app.router.add_get("/file/bot{token:[^/]+}/{path:.+}", _download)
    return app


@web.middleware
async def _refusals_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn what aiohttp itself refuses into the service's error shape."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return failure(entity_too_large())
    except web.HTTPException as error:
        return failure(ApiError(error.status, error.reason))


async def _call(request: web.Request) -> web.StreamResponse:
    server = request.app[SERVER]
    method = METHODS.get(request.match_info["method"].lower())
    try:
        reply = success(await _result(server, request, method))
    except ApiError as error:
        reply = _refused(error)
    except ConnectionDropped:
        return _dropped(request)
    server.answered[method.name if method else "unknown", reply.status] += 1
    return reply


def _refused(error: ApiError) -> web.Response:
    """Who sends too much is answered before he has sent it, and not listened to any longer."""
    reply = failure(error)
    if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        reply.force_close()
    return reply


def _dropped(request: web.Request) -> web.StreamResponse:
    """Close the connection; what is returned goes nowhere."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def _result(server: Server, request: web.Request, method: Method | None) -> object:
    reading = _reading(server, method)
    reading.refuse_oversized(request)
    bot_id = _authorized(server, request)
    if method is None:
        raise ApiError(404, "Not Found: method not found")
    async with received(request, server.store.incoming, reading) as parameters:
        call = Call(server.settings, server.store, bot_id, parameters)
        fault, result = await _carried_out(server, method, call)
        await server.knobs.done(method.name, fault)
        return as_music(result) if fault.loss is Loss.NO_DOCUMENT else result


def _reading(server: Server, method: Method | None) -> Reading:
    return Reading(
        MAX_LOCAL_BODY_BYTES if server.settings.local else MAX_BODY_BYTES,
        too_large=server.knobs.oversized,
        pause=server.knobs.pauses(method.name if method else ""),
    )


async def _carried_out(server: Server, method: Method, call: Call) -> tuple[Fault, object]:
    async with _queued(server, method, call):
        fault = await server.knobs.admit(method.name)
        result = method.answer(call)
    if method.name in _SENDINGS:
        server.polls.posted()
    return fault, result


@asynccontextmanager
async def _queued(server: Server, method: Method, call: Call) -> AsyncIterator[None]:
    if method.name == _POLL:
        seconds = call.parameters.integer("timeout") or 0
        await server.polls.wait(call.bot_id, lambda: bool(updates(call)), seconds)
    if method.name not in _SENDINGS:
        yield
        return
    size = sum(upload.size for upload in call.parameters.uploads.values())
    async with server.queues.turn(call.bot_id, call.parameters.integer("chat_id"), size):
        yield


def _authorized(server: Server, request: web.Request) -> int:
    """The id of the bot that the token in the path belongs to."""
    token = request.match_info["token"]
    if bot_id_of(token) is None:
        raise ApiError(401, "Unauthorized: invalid token specified")
    if token not in server.settings.tokens:
        raise ApiError(401, "Unauthorized")
    bot_id = server.settings.tokens[token]
    if server.store.state.is_logged_out(bot_id):
        raise ApiError(400, "Logged out")
    return bot_id


async def _download(request: web.Request) -> web.StreamResponse:
    server = request.app[SERVER]
    reply: web.StreamResponse
    try:
        file = _linked(server, request)
        fault = await server.knobs.admit(DOWNLOAD)
        reply = await download(request, server.store.blob(file.sha256), fault.loss)
        await server.knobs.done(DOWNLOAD, fault)
    except ApiError as error:
        reply = failure(error)
    except ConnectionDropped:
        return _dropped(request)
    server.answered[DOWNLOAD, reply.status] += 1
    return reply


def _linked(server: Server, request: web.Request) -> StoredFile:
    """The file of a link that is valid: it is this bot's, was asked for, and not too long ago."""
    file = server.store.file_at(_authorized(server, request), request.match_info["path"])
    if file is None or file.linked_at is None or file.size > MAX_DOWNLOAD_BYTES:
        raise not_found()
    if file.linked_at + server.settings.rules.link_seconds <= server.store.state.now():
        raise not_found()
    return file
