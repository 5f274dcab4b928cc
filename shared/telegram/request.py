"""The library's HTTP client, with the one answer kept apart that the library's errors do not tell."""

from http import HTTPStatus
from typing import Any

import telegram
from telegram.request import HTTPXRequest


class TooLarge(telegram.error.TelegramError):
    """413, in whatever shape: the service's JSON, a proxy's HTML, or nothing at all."""


class Request(HTTPXRequest):
    async def do_request(self, *args: Any, **options: Any) -> tuple[int, bytes]:  # noqa: ANN401
        """The library would raise NetworkError, as for what passes by itself."""
        status, body = await super().do_request(*args, **options)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooLarge("Request Entity Too Large")
        return status, body
