"""Routes for tests, outside /bot: what is stored, what was answered, and the knobs.

`__main__` adds them; `process.BotApi` calls them.
"""

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from aiohttp import web

from sandbox.bot_api.app import SERVER
from sandbox.bot_api.errors import ApiError, Shape, flood
from sandbox.bot_api.knobs import ANY, DOWNLOAD, REFUSALS, Fault, Knobs, Loss
from sandbox.bot_api.methods import METHODS


def add_inspection(app: web.Application) -> None:
    app.router.add_get("/inspect/messages", _messages)
    app.router.add_get("/inspect/calls", _calls)
    app.router.add_get("/inspect/held", _held)
    app.router.add_post("/knobs/{knob}", _turn)


async def _messages(request: web.Request) -> web.Response:
    messages = request.app[SERVER].store.messages(int(request.query["chat_id"]))
    return web.json_response([asdict(message) for message in messages])


async def _calls(request: web.Request) -> web.Response:
    counts: dict[str, dict[int, int]] = defaultdict(dict)
    for (method, status), count in request.app[SERVER].answered.items():
        counts[method][status] = count
    return web.json_response(counts)


async def _held(request: web.Request) -> web.Response:
    server = request.app[SERVER]
    return web.json_response({**server.knobs.held, "getUpdates": server.polls.waiting})


async def _turn(request: web.Request) -> web.Response:
    server = request.app[SERVER]
    values = await request.json()
    match request.match_info["knob"]:
        case "migrate":
            server.store.state.upgrade(int(values["chat_id"]), int(values["new_chat_id"]))
        case "clock":
            server.store.state.advance_clock(float(values["advance_seconds"]))
        case knob:
            _turn_knob(server.knobs, knob, values)
    return web.json_response({})


def _turn_knob(knobs: Knobs, knob: str, values: dict[str, Any]) -> None:
    """Turn one of those that a reset forgets."""
    match knob:
        case "hold-after":
            knobs.hold_after(_method(values), int(values["count"]))
        case "drip":
            knobs.drip(_method(values), times=values["times"], pause_seconds=float(values["pause_seconds"]))
        case "flood":
            _plan(knobs, values, Fault(flood(int(values["retry_after"]))))
        case "refuse":
            _plan(knobs, values, Fault(_refusal(values), stored=bool(values["stored"])))
        case "lose":
            _plan(knobs, values, Fault(loss=Loss(values["loss"])))
        case "oversized":
            knobs.oversized = Shape(values["shape"])
        case "release":
            knobs.release()
        case "reset":
            knobs.reset()
        case _:
            raise web.HTTPNotFound(reason=f"no knob {knob}")


def _plan(knobs: Knobs, values: dict[str, Any], fault: Fault) -> None:
    knobs.plan(_method(values), fault, times=int(values["times"]))


def _refusal(values: dict[str, Any]) -> ApiError:
    """One in the service's words: what it never says would prove nothing."""
    known = REFUSALS.get(int(values["status"]), ())
    description = values["description"] or next(iter(known), None)
    if description not in known:
        raise web.HTTPBadRequest(reason=f"no such refusal with status {values['status']}")
    shape = values["shape"]
    return ApiError(int(values["status"]), description, shape=None if shape is None else Shape(shape))


def _method(values: dict[str, Any]) -> str:
    """The method's canonical name; a knob for a method that does not exist would do nothing, silently."""
    name = values["method"]
    if name in {ANY, DOWNLOAD}:
        return str(name)
    method = METHODS.get(name.lower())
    if method is None:
        raise web.HTTPBadRequest(reason=f"no method {name}")
    return method.name
