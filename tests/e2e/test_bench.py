"""The bench as a person runs it, at a size that takes seconds: its figures mean nothing, its tables do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.bench.figures import FC, LIMIT, PGFERRY

REPOSITORY = Path(__file__).parents[2]
JOBS = 2


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a tiny bench printed, and its figures."""
    figures = tmp_path_factory.mktemp("bench") / "figures.json"
    sizes = ["--megabytes", "2", "--rounds", "1", "--jobs", str(JOBS), "--tables", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.bench", "export", *sizes, "--json", str(figures)],
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
