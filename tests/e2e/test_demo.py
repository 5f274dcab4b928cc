"""The demo as a person runs it: what it prints is what the README shows, and its curl lines work."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sandbox.process import alive, children_of, wait_until

REPOSITORY = Path(__file__).parents[2]
SECONDS = 100.0


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A running `./run demo --keep` of a small tenant, and what it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.demo", "--megabytes", "1", "--keep"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("# KEY_FILE"):
            break
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_readme_shows_what_the_demo_prints(demo: tuple[subprocess.Popen[str], list[str]]) -> None:
    """Line by line, but for numbers, ids and spaces."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = re.search(
        r"<!-- transcript: begin.*?-->\n```\n(.*?)```\n<!-- transcript: end -->", readme, re.DOTALL
    )
    assert shown is not None

    _, lines = demo
    printed = [masked(line) for line in lines]
    for line in shown[1].splitlines():
        assert masked(line) in printed


def test_its_curl_lines_work(demo: tuple[subprocess.Popen[str], list[str]]) -> None:
    """The POST is accepted, the job is shown, and each service gives its metrics."""
    _, lines = demo
    assignments = [line for line in lines if re.match(r"(URL|TOKEN)=", line)]
    answers = [bash([*assignments, line]) for line in lines if line.startswith("curl ")]

    posted, shown, *metrics = answers
    assert json.loads(posted)["data"]["status"] == "pending"
    assert json.loads(shown)["data"]["status"] == "completed"
    assert len(metrics) == 3
    for text in metrics:
        names = {family.name for family in text_string_to_metric_families(text)}
        assert "pgferry_build_info" in names


def test_its_lines_for_operators_work(demo: tuple[subprocess.Popen[str], list[str]]) -> None:
    """The backup is fetched, and the printed commands restore it into the empty database."""
    _, lines = demo
    exports = [line for line in lines if line.startswith("export ")]
    commands = [line for line in lines if line.startswith("pgferry ") and " demo:" not in line]
    key_file = next(line for line in lines if line.startswith("# KEY_FILE")).split()[-1]

    *_, restore = [bash([*exports, line]) for line in commands]
    bash([*exports, restore.replace("KEY_FILE", key_file), 'psql -XAtc "SELECT 1" "$TARGET_URL"'])
    count = bash([*exports, 'psql -XAtc \'SELECT count(*) FROM "tenant_acme-corp".lines\' "$TARGET_URL"'])

    assert int(count) > 0


def test_it_ends_with_everything_it_started(demo: tuple[subprocess.Popen[str], list[str]]) -> None:
    """Ctrl-C: exit 0, and no process is left."""
    process, _ = demo
    started = descendants(process.pid)
    assert started

    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 0
    wait_until(
        lambda: not [pid for pid in started if alive(pid)], seconds=20, what="all processes have ended"
    )


def masked(line: str) -> str:
    line = re.sub(r"[0-9a-f]{8}…", "ID", line)
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*", "N", line))


def bash(lines: list[str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        env={"PATH": os.environ["PATH"], "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def descendants(pid: int) -> list[int]:
    found = list(children_of(pid))
    return found + [below for child in found for below in descendants(child)]
