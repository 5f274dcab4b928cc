"""What a call may be refused with, in the words of the real service.

Raised by methods, parameters and app; `replies.failure` turns it into an answer.
"""

MAX_BODY_BYTES = 52_428_800
"""Largest request body, multipart overhead included."""


class ApiError(Exception):
    """A refusal; `code` is both the HTTP status and the answer's error_code."""

    def __init__(self, code: int, description: str, *, retry_after: int | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.retry_after = retry_after


def bad_request(reason: str) -> ApiError:
    return ApiError(400, f"Bad Request: {reason}")


def not_found() -> ApiError:
    return ApiError(404, "Not Found")


def entity_too_large() -> ApiError:
    return ApiError(413, "Request Entity Too Large")


def flood(retry_after: int) -> ApiError:
    return ApiError(429, f"Too Many Requests: retry after {retry_after}", retry_after=retry_after)
