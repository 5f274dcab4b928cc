"""Logs: one JSON object a line, with the job's id, and never a secret, however it is written."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from shared.runtime.logs import REDACTED, Redactor

_ROOT = Path(__file__).parents[2]
SECRET = 'ça va/"quoted" \\ & more:\t7f3a9c'
BOT_TOKEN = "7000001:AAE-canary-token-of-nobody-0123456789"
AGE_KEY = "AGE-SECRET-KEY-1CANARYCANARYCANARYCANARYCANARYCANARYCANARYCANARY"

# A process of its own: logging is configured once for all of it; its lines are on standard error.
_PROCESS = """
import json, logging, sys
import structlog
from shared.runtime import logs

secret, bot_token, age_key = json.loads(sys.argv[1])
logs.configure(service="exporter", secrets=[secret])
log, library = structlog.get_logger("shared.storage.spool"), logging.getLogger("some.library")

log.info("before the job")
with structlog.contextvars.bound_contextvars(job_id="job-1", fence=3):
    log.info("with a field", password=secret, nested={secret: [secret]})
    log.info("with " + secret)
    log.debug("too quiet " + secret)
    library.warning("POST https://api.telegram.org/bot%s/getMe", bot_token)
    library.warning("connecting to postgresql://user:%s@db/app", "hunter2")
    library.info("the key is %r", secret)
    logging.getLogger("aiormq").error("chatter")
    logging.getLogger("telegram.request.BaseRequest").error("chatter")
    try:
        raise ValueError(secret, {"key": age_key})
    except ValueError:
        log.exception("a failure")
        library.exception("a failure of a library")
    log.info("unusual", value=object(), text="\\u00e9\\n\\u2028")
log.info("after the job")
"""


@pytest.fixture(scope="module")
def output() -> str:
    """What a process wrote that had secrets in all the wrong places."""
    arguments = json.dumps([SECRET, BOT_TOKEN, AGE_KEY])
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, arguments],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def events(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.removesuffix("\n").split("\n")]


def test_no_form_of_a_secret_is_logged(output: str) -> None:
    """The end of the secret is in each of its forms, and so would show any that slipped through."""
    assert "7f3a9c" not in output
    assert BOT_TOKEN not in output
    assert AGE_KEY not in output
    assert "hunter2" not in output
    assert output.count(REDACTED) >= 9


def test_every_line_is_one_event(events: list[dict[str, object]]) -> None:
    """JSON objects with time, level, logger and service, whoever logged; libraries' chatter is left out."""
    assert len(events) == 10
    for event in events:
        assert {"event", "timestamp", "level", "logger", "service"} <= set(event)
        assert event["service"] == "exporter"
    assert {event["logger"] for event in events} == {"shared.storage.spool", "some.library"}


def test_every_line_of_a_job_names_it(events: list[dict[str, object]]) -> None:
    """Those of libraries, too; those outside of the job do not."""
    first, *inside, last = events

    assert [(event["job_id"], event["fence"]) for event in inside] == [("job-1", 3)] * 8
    assert "job_id" not in first
    assert "job_id" not in last


def test_exceptions_are_told_within_their_line(events: list[dict[str, object]]) -> None:
    """With their traceback, from us and from libraries."""
    told = [str(event["exception"]) for event in events if "exception" in event]

    assert len(told) == 2
    for text in told:
        assert text.startswith("Traceback")
        assert "ValueError" in text


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(SECRET, id="plain"),
        pytest.param(quote(SECRET, safe=""), id="url"),
        pytest.param(quote(SECRET), id="url-path"),
        pytest.param(quote_plus(SECRET), id="form"),
        pytest.param(json.dumps(SECRET), id="json"),
        pytest.param(json.dumps(SECRET, ensure_ascii=False), id="json-utf8"),
        pytest.param(repr(SECRET), id="repr"),
        pytest.param(json.dumps(repr(SECRET), ensure_ascii=False), id="repr-in-json"),
        pytest.param(json.dumps(json.dumps(SECRET)), id="json-in-json"),
    ],
)
def test_a_secret_is_recognised_however_it_is_written(written: str) -> None:
    """Nothing of it is left, and nothing else is gone."""
    text = Redactor([SECRET])(f"before {written} after")

    assert not [piece for piece in ("va", "quoted", "more", "7f3a9c") if piece in text]
    assert text.startswith("before ")
    assert text.endswith(" after")


def test_the_longer_of_two_secrets_goes_whole() -> None:
    """A secret that begins like another does not leave its end behind."""
    assert Redactor(["abc-12", "abc-1234"])("abc-1234 abc-12") == f"{REDACTED} {REDACTED}"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"/bot{BOT_TOKEN}/getMe", f"/bot{REDACTED}/getMe"),
        ("amqp://user:pass@host/", f"amqp://user:{REDACTED}@host/"),
        ("redis://:pass@host", f"redis://:{REDACTED}@host"),
        (f"key {AGE_KEY}.", f"key {REDACTED}."),
        (AGE_KEY.lower(), REDACTED),
        ("https://host:443/a@b at 12:30", "https://host:443/a@b at 12:30"),
    ],
)
def test_what_looks_like_a_secret_is_one(text: str, redacted: str) -> None:
    """Known or not: bot tokens, passwords in URLs, age's secret keys; and nothing else."""
    assert Redactor()(text) == redacted
