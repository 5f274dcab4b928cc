"""The bench as a person runs it, at a size that takes seconds: its figures mean nothing, its tables do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.bench.figures import FC, LIMIT, PGFERRY
from sandbox.bench.queue_figures import CONSUME, INTAKE, PUBLISH, RELAY, STAND_IN
from sandbox.bench.upload_figures import CURL, LOOP, UPLOADER

REPOSITORY = Path(__file__).parents[2]
JOBS = 2
TENANTS = 2
MESSAGES = 10
DOCUMENTS = 25


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a tiny bench printed, and its figures."""
    sizes = ["--megabytes", "2", "--rounds", "1", "--jobs", str(JOBS), "--tables", "20"]
    return _ran("export", *sizes, figures=tmp_path_factory.mktemp("bench") / "figures.json")


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The same of the whole chain."""
    sizes = ["--tenants", str(TENANTS), "--tables", "2", "--rounds", "1", "--messages", str(MESSAGES)]
    return _ran("queue", *sizes, figures=tmp_path_factory.mktemp("queue") / "figures.json")


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The same of uploads; one chat takes these documents in two windows."""
    sizes = ["--documents", str(DOCUMENTS), "--parts", "3", "--mebibytes", "1", "--rounds", "1"]
    return _ran("upload", *sizes, figures=tmp_path_factory.mktemp("upload") / "figures.json")


def _ran(bench: str, *sizes: str, figures: Path) -> tuple[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.bench", bench, *sizes, "--json", str(figures)],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout, json.loads(figures.read_text(encoding="utf-8"))


def test_it_prints_each_aim_with_its_measured_value(bench: tuple[str, dict[str, Any]]) -> None:
    """Every aim has a measured value."""
    printed, _ = bench
    aims = printed.partition("| aim | at most | measured |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(aims) == 7
    for aim in aims:
        assert aim.split("|")[3].strip()[0].isdigit()


def test_it_measures_what_it_says(bench: tuple[str, dict[str, Any]]) -> None:
    """The dump has the size that was asked for, all took part in each round, memory grows with jobs."""
    _, figures = bench
    whole, peaks = figures["whole"], figures["peaks"]

    assert 1.5e6 < whole["plain_bytes"] < 2.5e6
    assert {LIMIT, PGFERRY, FC} < whole["seconds"].keys()
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in whole["seconds"].values())
    assert len(figures["at_once"]["one"]) == len(figures["at_once"]["together"]) == 1
    assert 0 < peaks["start"] <= peaks["tenth"] <= peaks["at_once"]
    assert all(seconds[0] >= 0 for seconds in figures["stages"].values())
    assert figures["lost"]["pgferry"][0] > 0


def test_it_prints_how_quick_the_chain_is(queue: tuple[str, dict[str, Any]]) -> None:
    """The aim has a measured value, and each process its processor time."""
    printed, figures = queue
    aim = next(line for line in printed.splitlines() if "| 0.70 x |" in line)
    assert float(aim.split("|")[3].strip().removesuffix(" x")) > 0
    for process in figures["chain"][0]["processor"]:
        assert f"| {process} |" in printed


def test_it_measures_the_chain_its_rival_and_each_message(queue: tuple[str, dict[str, Any]]) -> None:
    """All took part once, each process worked, and what carried a message has its time."""
    _, figures = queue
    chain, rival = figures["chain"], figures["rival"]

    assert (figures["tenants"], figures["messages"]) == (TENANTS, MESSAGES)
    assert len(chain) == len(rival) == 1
    assert min(chain[0]["seconds"], rival[0]["seconds"]) > 0
    assert {"gateway", "exporter", "uploader", "pg_dump", "PostgreSQL", "RabbitMQ", STAND_IN} == chain[0][
        "processor"
    ].keys()
    for busy in ("exporter", "uploader", "pg_dump", "PostgreSQL"):
        assert chain[0]["processor"][busy] > 0
    assert all(figures["carried"][name][0] > 0 for name in (RELAY, PUBLISH, INTAKE, CONSUME))


def test_it_prints_each_aim_of_an_upload(upload: tuple[str, dict[str, Any]]) -> None:
    """Every aim has a measured value."""
    printed, _ = upload
    aims = printed.partition("| aim | wanted | measured |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(aims) == 7
    for aim in aims:
        assert aim.split("|")[3].strip()[0].isdigit()


def test_it_measures_lanes_bytes_and_memory(upload: tuple[str, dict[str, Any]]) -> None:
    """One chat's lane was full once, nobody was refused, all took part, memory never shrinks."""
    _, figures = upload
    lanes, peaks = figures["lanes"], figures["peaks"]

    assert [(run["documents"], run["chats"], run["refused"]) for run in lanes] == [
        (DOCUMENTS, 1, 0),
        (DOCUMENTS, 4, 0),
    ]
    assert lanes[0]["seconds"] > figures["window_seconds"] > lanes[1]["seconds"] > 0
    assert figures["part_bytes"] == 1024 * 1024
    assert {UPLOADER, LOOP, CURL} == figures["seconds"].keys()
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in figures["seconds"].values())
    assert 0 < peaks["start"] <= peaks["few"] <= peaks["many"] <= peaks["at_once"]
