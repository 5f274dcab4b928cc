"""Every refusal as one shape, `ApiError`; the middleware asks here what an exception means to a client.

No text holds a value that came with the request, and a 500 says nothing of the inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.hdrs import ALLOW, RETRY_AFTER, WWW_AUTHENTICATE

from services.gateway.auth import TokenRefused
from services.gateway.rate_limit import TooMany
from services.gateway.schemas import ApiError, ErrorBody, ErrorDetail
from shared.contracts.errors import Unavailable

#: When to come back while PostgreSQL is away: about as long as a restart takes.
UNAVAILABLE_SECONDS = 5

#: aiohttp's own refusals that a client may see, as our codes and sentences.
_OF_AIOHTTP = {
    400: ("bad_request", "The request cannot be understood."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take this method."),
    413: ("body_too_large", "The body is too large."),
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a client is told."""

    status: int
    code: str
    message: str
    details: tuple[ErrorDetail, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A handler's own refusal."""

    def __init__(
        self, status: int, code: str, message: str, *, details: tuple[ErrorDetail, ...] = ()
    ) -> None:
        super().__init__(message)
        self.meaning = Meaning(status, code, message, details)


INTERNAL = Meaning(500, "internal_error", "Something went wrong here; the request id helps to find it.")


def meaning_of(error: Exception) -> Meaning | None:
    """None for what nobody foresaw: that is INTERNAL, and goes into the log."""
    match error:
        case Refused():
            return error.meaning
        case TokenRefused():
            challenge = "Bearer" if error.code == "token_missing" else 'Bearer error="invalid_token"'
            return Meaning(401, error.code, str(error), headers={WWW_AUTHENTICATE: challenge})
        case TooMany():
            return _later(429, "rate_limited", str(error), seconds=error.retry_after)
        case Unavailable():
            return _later(503, error.code, "Try again in a moment.", seconds=UNAVAILABLE_SECONDS)
        case web.HTTPException() if error.status in _OF_AIOHTTP:
            code, message = _OF_AIOHTTP[error.status]
            kept: dict[str, str] = {ALLOW: error.headers[ALLOW]} if ALLOW in error.headers else {}
            return Meaning(error.status, code, message, headers=kept)
        case _:
            return None


def _later(status: int, code: str, message: str, *, seconds: int) -> Meaning:
    return Meaning(status, code, message, headers={RETRY_AFTER: str(seconds)})


def response_of(meaning: Meaning, *, request_id: str) -> web.Response:
    error = ErrorBody(
        code=meaning.code, message=meaning.message, details=meaning.details, request_id=request_id
    )
    return web.Response(
        status=meaning.status,
        text=ApiError(error=error).model_dump_json(),
        content_type="application/json",
        headers=meaning.headers,
    )
