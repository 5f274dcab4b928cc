"""What a call may be refused with, in the words of the real service.

Raised by methods, parameters, queues and app; `replies.failure` turns it into an answer.
"""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from types import MappingProxyType

MAX_BODY_BYTES = 52_428_800
"""Largest request body of the cloud service, multipart overhead included."""
MAX_LOCAL_BODY_BYTES = 2000 << 20
"""The same of a server of one's own."""

_SAID_BY_NGINX = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})


class Shape(StrEnum):
    """How a refusal is written: by the service, by a proxy in front of it, or by nobody."""

    JSON = "json"
    PAGE = "page"
    EMPTY = "empty"


class ApiError(Exception):
    """A refusal; `code` is both the HTTP status and the answer's error_code.

    Without a shape, 502 and 504 are a page of nginx and all else is JSON.
    """

    def __init__(
        self,
        code: int,
        description: str,
        *,
        parameters: Mapping[str, int] = MappingProxyType({}),
        shape: Shape | None = None,
    ) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.parameters = parameters
        self.shape = shape or (Shape.PAGE if code in _SAID_BY_NGINX else Shape.JSON)


def bad_request(reason: str) -> ApiError:
    return ApiError(400, f"Bad Request: {reason}")


def migrated(chat_id: int) -> ApiError:
    reason = "Bad Request: group chat was upgraded to a supergroup chat"
    return ApiError(400, reason, parameters={"migrate_to_chat_id": chat_id})


def not_found() -> ApiError:
    return ApiError(404, "Not Found")


def conflict() -> ApiError:
    reason = "terminated by other getUpdates request; make sure that only one bot instance is running"
    return ApiError(409, f"Conflict: {reason}")


def entity_too_large(shape: Shape = Shape.JSON) -> ApiError:
    return ApiError(413, "Request Entity Too Large", shape=shape)


def flood(retry_after: int) -> ApiError:
    reason = f"Too Many Requests: retry after {retry_after}"
    return ApiError(429, reason, parameters={"retry_after": retry_after})
