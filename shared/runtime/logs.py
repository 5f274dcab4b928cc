"""JSON logs on standard error, one event a line, with the job's id and without secrets.

Composition roots call `configure` once; everybody else uses `structlog.get_logger(__name__)`.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"

#: A bot token, whoever wrote it and wherever: libraries put it into URLs.
_BOT_TOKEN = re.compile(r"\d{6,}:[A-Za-z0-9_-]{30,}")
_URL_PASSWORD = re.compile(r"(://[^:/@\s\"]*):[^@/\s\"]+@")
_AGE_SECRET_KEY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]+", re.IGNORECASE)

#: Libraries that log each request (with its URL) or each reconnect at INFO.
_QUIET = ("httpx", "httpcore", "telegram", "aiohttp.access", "alembic")

#: What these say of a lost broker, or of an answer that is no JSON, we say in one line without a traceback.
_SILENT = ("aio_pika", "aiormq", "telegram.request")


class Redactor:
    """Removes known secrets, and whatever looks like one, from a finished line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if secret for form in _written_forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, REDACTED)
        text = _BOT_TOKEN.sub(REDACTED, text)
        text = _AGE_SECRET_KEY.sub(REDACTED, text)
        return _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)


def configure(*, service: str, level: str = "INFO", secrets: Iterable[str] = ()) -> None:
    """Send structlog's and the standard library's events through one formatter."""
    redact = Redactor(secrets)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _stamp(service),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _rendered(redact),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    quiet_libraries()


def quiet_libraries() -> None:
    """Also for a program that logs in its own way: some libraries write URLs, which hold the bot's token."""
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _written_forms(secret: str) -> set[str]:
    """A secret as it may stand in a line: plain, in a URL or form, in a repr, within JSON, or JSON in it."""
    forms = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1]}
    for _ in range(2):
        forms |= {json.dumps(form, ensure_ascii=only)[1:-1] for form in forms for only in (True, False)}
    return forms


def _stamp(service: str) -> Processor:
    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return add_service


def _rendered(redact: Redactor) -> Processor:
    render = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)

    def to_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
        line = render(logger, method, event)
        return redact(line if isinstance(line, str) else line.decode())

    return to_line
