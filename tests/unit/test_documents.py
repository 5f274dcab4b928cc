"""Documents that repeat what the code says are held against it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from cli.backups import note_for_older_servers
from sandbox.restore import WITHOUT_NEWER_SETTINGS
from services.exporter.complaints import COMPLAINTS
from shared.contracts.job import MOVES

REPOSITORY = Path(__file__).parents[2]
TEST_ID = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_the_picture_of_moves_shows_exactly_the_allowed_ones() -> None:
    """docs/architecture.md draws every move of the contract and no other."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.partition("<!-- moves: begin -->")[2].partition("<!-- moves: end -->")[0]
    drawn = set(re.findall(r"^ {4}(\w+) --> (\w+):", picture, re.MULTILINE))

    assert drawn == {("_".join(before), "_".join(after)) for before, after in MOVES}


def test_every_test_that_the_page_on_reliability_names_exists() -> None:
    """Each line of its tables is proved, and each proof of docs/reliability.md is a test that is there."""
    text = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    tables = text.partition("## If a process dies")[2].partition("## Chaos")[0]
    rows = re.findall(r"^\| (?!-)(.*) \|$", tables, re.MULTILINE)
    unproved = [row for row in rows if not TEST_ID.search(row) and not row.endswith("| proved by")]
    assert rows
    assert unproved == []

    for file, test in TEST_ID.findall(text):
        [module] = (REPOSITORY / "tests").rglob(file)
        assert f"def {test}(" in module.read_text(encoding="utf-8"), test


def test_every_line_of_the_page_on_the_stand_in_is_proved() -> None:
    """Each line of its tables names tests, and they are there."""
    text = (REPOSITORY / "docs" / "stand-in.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!-)(.*) \|$", text, re.MULTILINE)
    assert [row for row in rows if not TEST_ID.search(row) and not row.endswith("| proved by")] == []

    for file, test in TEST_ID.findall(text):
        module = REPOSITORY / "tests" / "integration" / "bot_api" / file
        assert f"def {test}(" in module.read_text(encoding="utf-8"), test


def test_every_test_that_the_page_on_telegram_names_exists() -> None:
    """What is said against the objections is proved by tests that are there."""
    text = (REPOSITORY / "docs" / "telegram.md").read_text(encoding="utf-8")
    named = TEST_ID.findall(text)
    assert named
    for file, test in named:
        modules = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob(file)]
        assert any(f"def {test}(" in module for module in modules), test


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


#: What follows from an error, in the words of docs/export.md.
FOLLOWS = {"PermanentError": "fails", "TemporaryError": "tried again", "Unavailable": "waits"}


def test_the_exporters_failures_are_those_of_the_page() -> None:
    """Every code that services/exporter raises is in docs/export.md, with what follows, and no other."""
    exporter = REPOSITORY / "services" / "exporter"
    raised = {(complaint.code, FOLLOWS[complaint.follows.value.__name__]) for complaint in COMPLAINTS}
    for module in exporter.glob("*.py"):
        raised.update(raised_in(module.read_text(encoding="utf-8")))

    assert set(listed("failures")) == raised


def test_the_other_failures_and_warnings_of_the_page_are_in_the_code() -> None:
    """Codes of the job's frame in shared/, and the exporter's warnings."""
    shared = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "shared").rglob("*.py"))
    sources = [
        REPOSITORY / "services" / "exporter" / name for name in ("facts.py", "catalogue.py", "describe.py")
    ]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    warned = re.findall(r"""Warned\(\s*"(\w+)"|SELECT (?:DISTINCT )?'(\w+)'(?: AS code)?,\s+format""", text)

    for code, _ in listed("frame"):
        assert f'"{code}"' in shared or f'"{code.removesuffix("_unavailable")}"' in shared, code
    assert {code for code, _ in listed("warnings")} == {one or other for one, other in warned}


def listed(table: str) -> list[tuple[str, str]]:
    """First two columns of the marked table of docs/export.md."""
    text = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
    part = text.partition(f"<!-- {table}: begin -->")[2].partition(f"<!-- {table}: end -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", part, re.MULTILINE)
    assert rows, table
    return rows


def raised_in(source: str) -> Iterator[tuple[str, str]]:
    """(code, what follows) of every failure that is made with its code as a literal."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FOLLOWS):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        code = given["code"] if "code" in given else node.args[0]
        if isinstance(code, ast.Constant):
            yield str(code.value), FOLLOWS[node.func.id]
