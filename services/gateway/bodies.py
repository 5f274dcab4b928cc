"""Reads a request's body: at most 16 KiB of JSON, checked against a model."""

import json
from typing import TypeVar

from aiohttp import web
from aiohttp.hdrs import CONTENT_ENCODING
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from services.gateway.errors import Refused
from services.gateway.schemas import ErrorDetail

MAX_BODY_BYTES = 16 * 1024
_MAX_NAME_CHARACTERS = 64

AnyBody = TypeVar("AnyBody", bound=BaseModel)


async def read_body(request: web.Request, model: type[AnyBody]) -> AnyBody:
    """Raises Refused 413 and 415, and 400 `invalid_json` or `invalid_body` with one detail per problem."""
    value = _parsed(await _read(request))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        raise Refused(
            400, "invalid_body", "The body is not valid.", details=tuple(map(_detail, problems))
        ) from error


async def _read(request: web.Request) -> bytes:
    if request.content_type != "application/json" or CONTENT_ENCODING in request.headers:
        raise Refused(415, "unsupported_media_type", "Send plain application/json.")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES)
    try:
        return await request.read()  # the application's limit ends it where the length was not told
    except (ConnectionError, web.RequestPayloadError) as error:
        raise web.HTTPBadRequest from error


def _parsed(body: bytes) -> object:
    """Strict JSON: UTF-8, no key twice, no NaN; nesting and numbers of any size end as a refusal."""
    try:
        value: object = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise Refused(400, "invalid_json", "The body is not JSON in UTF-8 with each key once.") from error
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands twice")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _detail(problem: ErrorDetails) -> ErrorDetail:
    """Without what was sent; a name that nobody knows is the client's own, so it is cut."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        message = message.partition(":")[0]  # behind it, the e-mail check quotes the address
    return ErrorDetail(field=name[:_MAX_NAME_CHARACTERS], code=problem["type"], message=message)
