"""The server's routes: Bot API calls and file downloads; `__main__` runs it.

A call is refused or read here, passes the knobs, goes on to its method, and passes the knobs again.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from sandbox.bot_api.errors import ApiError, entity_too_large, not_found
from sandbox.bot_api.knobs import ConnectionDropped, Knobs
from sandbox.bot_api.methods import MAX_DOWNLOAD_BYTES, METHODS, Call, Method, Settings
from sandbox.bot_api.parameters import received, refuse_oversized
from sandbox.bot_api.replies import failure, success
from sandbox.bot_api.store import Store


@dataclass(frozen=True, slots=True)
class Server:
    """What the routes share; `answered` counts calls by (method, HTTP status)."""

    settings: Settings
    store: Store
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
        reply = failure(error)
    except ConnectionDropped:
        return _dropped(request)
    server.answered[method.name if method else "unknown", reply.status] += 1
    return reply


def _dropped(request: web.Request) -> web.StreamResponse:
    """Close the connection; what is returned goes nowhere."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def _result(server: Server, request: web.Request, method: Method | None) -> object:
    refuse_oversized(request)
    bot_id = _authorized(server, request)
    if method is None:
        raise ApiError(404, "Not Found: method not found")
    async with received(request, server.store.incoming) as parameters:
        loss = await server.knobs.admit(method.name)
        result = method.answer(Call(server.settings, server.store, bot_id, parameters))
        await server.knobs.done(method.name, loss)
        return result


def _authorized(server: Server, request: web.Request) -> int:
    """The id of the bot that the token in the path belongs to."""
    token = request.match_info["token"]
    if bot_id_of(token) is None:
        raise ApiError(401, "Unauthorized: invalid token specified")
    if token not in server.settings.tokens:
        raise ApiError(401, "Unauthorized")
    return server.settings.tokens[token]


async def _download(request: web.Request) -> web.StreamResponse:
    server = request.app[SERVER]
    reply: web.StreamResponse
    try:
        reply = _content(server, request)
    except ApiError as error:
        reply = failure(error)
    server.answered["file", reply.status] += 1
    return reply


def _content(server: Server, request: web.Request) -> web.FileResponse:
    bot_id = _authorized(server, request)
    file = server.store.file_at(bot_id, request.match_info["path"])
    if file is None or file.size > MAX_DOWNLOAD_BYTES:
        raise not_found()
    headers = {"Content-Type": "application/octet-stream"}
    return web.FileResponse(server.store.blob(file.sha256), headers=headers)
