"""Routes for tests, outside /bot: what is stored, what was answered, and the knobs.

`__main__` adds them; `process.BotApi` calls them.
"""

from collections import defaultdict
from dataclasses import asdict

from aiohttp import web

from sandbox.bot_api.app import SERVER
from sandbox.bot_api.knobs import REFUSALS, Loss
from sandbox.bot_api.methods import METHODS


def add_inspection(app: web.Application) -> None:
    app.router.add_get("/inspect/messages", _messages)
    app.router.add_get("/inspect/calls", _calls)
    app.router.add_get("/inspect/held", _held)
    app.router.add_post("/knobs/hold-after", _hold_after)
    app.router.add_post("/knobs/release", _release)
    app.router.add_post("/knobs/flood", _flood)
    app.router.add_post("/knobs/refuse", _refuse)
    app.router.add_post("/knobs/lose", _lose)
    app.router.add_post("/knobs/reset", _reset)
    app.router.add_post("/knobs/clock", _clock)


async def _messages(request: web.Request) -> web.Response:
    messages = request.app[SERVER].store.messages(int(request.query["chat_id"]))
    return web.json_response([asdict(message) for message in messages])


async def _calls(request: web.Request) -> web.Response:
    counts: dict[str, dict[int, int]] = defaultdict(dict)
    for (method, status), count in request.app[SERVER].answered.items():
        counts[method][status] = count
    return web.json_response(counts)


async def _held(request: web.Request) -> web.Response:
    return web.json_response(request.app[SERVER].knobs.held)


async def _hold_after(request: web.Request) -> web.Response:
    knob = await request.json()
    request.app[SERVER].knobs.hold_after(_method(knob["method"]), int(knob["count"]))
    return web.json_response({})


async def _release(request: web.Request) -> web.Response:
    request.app[SERVER].knobs.release()
    return web.json_response({})


async def _flood(request: web.Request) -> web.Response:
    knob = await request.json()
    request.app[SERVER].knobs.flood(
        _method(knob["method"]), times=int(knob["times"]), retry_after=int(knob["retry_after"])
    )
    return web.json_response({})


async def _refuse(request: web.Request) -> web.Response:
    knob = await request.json()
    status = int(knob["status"])
    if status not in REFUSALS:
        raise web.HTTPBadRequest(reason=f"no refusal with status {status}")
    request.app[SERVER].knobs.refuse(_method(knob["method"]), times=int(knob["times"]), status=status)
    return web.json_response({})


async def _lose(request: web.Request) -> web.Response:
    knob = await request.json()
    request.app[SERVER].knobs.lose(_method(knob["method"]), times=int(knob["times"]), loss=Loss(knob["loss"]))
    return web.json_response({})


async def _reset(request: web.Request) -> web.Response:
    request.app[SERVER].knobs.reset()
    return web.json_response({})


async def _clock(request: web.Request) -> web.Response:
    knob = await request.json()
    request.app[SERVER].store.advance_clock(float(knob["advance_seconds"]))
    return web.json_response({})


def _method(name: str) -> str:
    """The method's canonical name; a knob for a method that does not exist would do nothing, silently."""
    method = METHODS.get(name.lower())
    if method is None:
        raise web.HTTPBadRequest(reason=f"no method {name}")
    return method.name
