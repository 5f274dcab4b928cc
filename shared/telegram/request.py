"""The library's HTTP client, with what is kept apart that the library's errors do not tell."""

from http import HTTPStatus
from typing import Any

import telegram
from telegram.request import HTTPXRequest

#: From here on it is Telegram, not the request.
FAILURES_IN_A_ROW = 3


class TooLarge(telegram.error.TelegramError):
    """413, in whatever shape: the service's JSON, a proxy's HTML, or nothing at all."""


class Misdirected(telegram.error.TelegramError):
    """421: a Bot API server of one's own serves other bots."""


class Down(telegram.error.TelegramError):
    """Telegram has not served several requests in a row, whatever they were for."""


class Request(HTTPXRequest):
    """Counts, for all calls of its bot, how often in a row Telegram failed to serve; an answer resets it."""

    _failures = 0

    async def do_request(self, *args: Any, **options: Any) -> tuple[int, bytes]:  # noqa: ANN401
        """The library would raise NetworkError, as for what passes by itself."""
        try:
            status, body = await super().do_request(*args, **options)
        except telegram.error.NetworkError as error:
            self._failed(f"{type(error.__cause__ or error).__name__}", error)
            raise
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._failed(f"it answers {status}", None)
        else:
            self._failures = 0
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooLarge("Request Entity Too Large")
        if status == HTTPStatus.MISDIRECTED_REQUEST:
            raise Misdirected("Misdirected Request")
        return status, body

    def _failed(self, reason: str, cause: Exception | None) -> None:
        """Raises Down when there were enough."""
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            raise Down(reason) from cause
