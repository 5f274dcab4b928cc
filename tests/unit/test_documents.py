"""Documents that repeat what the code says are held against it."""

import re
from pathlib import Path

from cli.backups import note_for_older_servers
from sandbox.restore import WITHOUT_NEWER_SETTINGS
from shared.contracts.job import MOVES

REPOSITORY = Path(__file__).parents[2]


def test_the_picture_of_moves_shows_exactly_the_allowed_ones() -> None:
    """docs/architecture.md draws every move of the contract and no other."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.partition("<!-- moves: begin -->")[2].partition("<!-- moves: end -->")[0]
    drawn = set(re.findall(r"^ {4}(\w+) --> (\w+):", picture, re.MULTILINE))

    assert drawn == {("_".join(before), "_".join(after)) for before, after in MOVES}


def test_every_test_that_the_failure_table_names_exists() -> None:
    """A proof in docs/architecture.md is a test that is there."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", text)
    assert named

    for file, test in named:
        found = list((REPOSITORY / "tests").rglob(file))
        assert found, file
        assert f"def {test}" in found[0].read_text(encoding="utf-8"), test


def test_links_between_documents_lead_somewhere() -> None:
    """Relative links in the documents name files that exist."""
    for document in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_filter_for_older_servers_is_the_tried_one() -> None:
    """The restore page and `pgferry backups fetch` print it, and only for dumps that need it."""
    assert f"| {WITHOUT_NEWER_SETTINGS} |" in (REPOSITORY / "docs" / "restore.md").read_text(encoding="utf-8")
    assert WITHOUT_NEWER_SETTINGS in note_for_older_servers("17.2 (Debian 17.2-1)")
    assert note_for_older_servers("16.14") == ""
