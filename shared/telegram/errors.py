"""What Telegram's answers mean for a job.

Traps kept here: `BadRequest` is a `NetworkError`, so it is caught first; a 404 and a 401 both arrive as
`InvalidToken`; `retry_after` is an int or a timedelta; the texts of some errors hold the bot's token;
whether a request was sent at all is told by the cause alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import httpx
import telegram
from telegram.error import BadRequest, ChatMigrated, Forbidden, InvalidToken, RetryAfter

from shared.contracts.errors import Failure, PermanentError, TemporaryError, Unavailable
from shared.telegram.request import Down, Misdirected, TooLarge
from shared.telegram.window import Altered


class FloodWait(Exception):
    """Telegram asks this chat's sender to wait `seconds`; nothing was stored, and nothing is spent."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"wait {seconds:.0f} s")
        self.seconds = seconds


#: Of a request that Telegram understood and will not carry out, whatever was meant by it.
BAD_REQUEST = "telegram_bad_request"

#: 400s that pass by themselves: Telegram's own "also includes all 5xx and 429 errors".
_PASSING_400 = "temporarily unavailable"


class ChatMoved(PermanentError):
    """The group became a supergroup: nothing can be posted, changed or deleted under its old id any more."""

    def __init__(self, new_chat_id: int) -> None:
        super().__init__(
            "telegram_chat_migrated", f"The group became a supergroup: set TELEGRAM_CHAT_ID to {new_chat_id}."
        )
        self.new_chat_id = new_chat_id


def require_about_the_message(error: PermanentError) -> None:
    """Raise what says nothing of the message: the bot was removed from the chat, or its token is unknown, and
    later all may be as it was. What lies in a group that became another one stays there.
    """
    if error.code != BAD_REQUEST and not isinstance(error, ChatMoved):
        raise error


class LinkExpired(TemporaryError):
    """Telegram gives out links that live for about an hour; the document can be asked for again."""


class AnswerLost(TemporaryError):
    """The request left, and no answer of Telegram's came back: it may have been carried out."""


class LostInOutage(Unavailable):
    """As `AnswerLost`, after several in a row."""


def may_be_done(error: Exception) -> bool:
    """Whether a call that ended so may have been carried out all the same."""
    return isinstance(error, AnswerLost | LostInOutage | WrongReceipt)


class WrongReceipt(PermanentError):
    """Telegram's answer does not show the document that was sent."""


class NotAsWritten(PermanentError):
    """The file is not the one whose hash was given; nothing of it is in the chat."""


#: Causes that leave no doubt: nothing was sent.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@contextmanager
def speaking_to_telegram(what: str) -> Iterator[None]:
    """Translate the library's errors; `what` names the step, e.g. `send a part`."""
    try:
        yield
    except RetryAfter as error:
        raise FloodWait(_seconds(error.retry_after)) from None
    except ChatMigrated as error:
        raise ChatMoved(error.new_chat_id) from error
    except Forbidden as error:
        raise PermanentError("telegram_forbidden", f"Telegram refused to {what}: {error.message}.") from error
    except InvalidToken:
        raise PermanentError(
            "telegram_token", f"Telegram refused to {what}: the bot token is unknown or revoked."
        ) from None
    except BadRequest as error:
        if _PASSING_400 in error.message.lower():
            raise TemporaryError("telegram_unavailable", f"Telegram could not {what} now.") from error
        raise PermanentError(BAD_REQUEST, f"Telegram refused to {what}: {error.message}.") from error
    except telegram.error.TelegramError as error:
        raise _failure_of(error, what) from error


def _failure_of(error: telegram.error.TelegramError, what: str) -> Failure:
    """Of what the library has no class for: too large, no way to Telegram, or Telegram's own trouble."""
    match error:
        case TooLarge():
            return PermanentError(
                "telegram_too_large", f"Telegram refused to {what}: the request is too large."
            )
        case Altered():
            return NotAsWritten("file_altered", f"Telegram could not {what}: it is not as it was written.")
        case Misdirected():
            sentence = f"The server of TELEGRAM_API_URL refused to {what}: it does not serve this bot."
            return PermanentError("telegram_misdirected", sentence)
        case Down():
            kind = Unavailable if _was_not_sent(error.__cause__) else LostInOutage
            return kind("telegram", f"Telegram does not serve us: {error.message}.")
        case _ if _was_not_sent(error):
            return Unavailable("telegram", f"Telegram is not reachable: {type(error.__cause__).__name__}.")
        case _:
            return AnswerLost("telegram_unavailable", f"Telegram could not {what}: {type(error).__name__}.")


def _was_not_sent(error: BaseException | None) -> bool:
    return error is not None and isinstance(error.__cause__, _NOT_SENT)


def _seconds(wait: float | timedelta) -> float:
    return wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
