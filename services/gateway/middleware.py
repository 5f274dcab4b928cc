"""Around every request: its id, its errors as `ApiError`, its place in the metrics."""

import re
import time
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.hdrs import SERVER
from aiohttp.typedefs import Handler

from services.gateway.errors import INTERNAL, meaning_of, response_of
from services.gateway.metrics import count_request

REQUEST_ID = web.RequestKey("REQUEST_ID", str)
REQUEST_ID_HEADER = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger(__name__)


@web.middleware
async def identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take the client's request id if it is short and plain, else make one; logs and answer carry it."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    request_id = given if _SANE_ID.fullmatch(given) else str(uuid4())
    request[REQUEST_ID] = request_id
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        response = await handler(request)
    response.headers[REQUEST_ID_HEADER] = request_id
    response.headers[SERVER] = "pgferry"
    return response


@web.middleware
async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    begun = time.monotonic()
    response = await handler(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "unknown"
    count_request(request.method, route, code=response.status, seconds=time.monotonic() - begun)
    return response


@web.middleware
async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever was raised into an answer; what nobody foresaw goes into the log, not to the client."""
    try:
        return await handler(request)
    except Exception as error:
        meaning = meaning_of(error)
        if meaning is None:
            log.exception("a request met an unforeseen error", method=request.method)
        return response_of(meaning or INTERNAL, request_id=request[REQUEST_ID])
