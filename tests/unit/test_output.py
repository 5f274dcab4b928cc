"""What commands print: nothing cut, nothing wrapped, nothing that moves the cursor."""

import json
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import pytest

from cli.output import counted, show_fields, show_json, show_table, size_of

ID = UUID("5f0c2a9e-6d1b-4f0e-9a37-2f6f3c8d7b10")
NOON = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)


class Colour(StrEnum):
    RED = "red"


def test_a_table_is_as_wide_as_it_must_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns stand below each other; the terminal's width cuts nothing."""
    monkeypatch.setenv("COLUMNS", "20")

    show_table(("ID", "COLOUR", "NOTE"), [(ID, Colour.RED, None), (ID, "x" * 40, NOON)])

    assert capsys.readouterr().out.splitlines() == [
        f"ID{' ' * 36}COLOUR{' ' * 36}NOTE",
        f"{ID}  red{' ' * 39}-",
        f"{ID}  {'x' * 40}  2026-11-21 12:00:00Z",
    ]


def test_an_empty_table_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    """So that a script may always skip one line."""
    show_table(("ID", "NOTE"), [])

    assert capsys.readouterr().out == "ID  NOTE\n"


def test_nested_values_are_shown_by_their_path(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each value that is set."""
    dump = {"plain": {"size": 0}, "names": ("a", "b"), "no": None, "whole": True}
    show_fields({"id": 7, "gone": None, "dump": dump})

    assert capsys.readouterr().out.splitlines() == [
        "id               7",
        "dump.plain.size  0",
        "dump.names       a, b",
        "dump.whole       yes",
    ]


def test_control_characters_are_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    """A name from a database must not write over the line above it."""
    show_fields({"name": "a\x1b[2J\nb ✓"})

    assert capsys.readouterr().out == "name  a\\x1b[2J\\nb ✓\n"


def test_json_has_iso_times_and_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Ids and enumerations are text, times end with Z."""
    show_json({"id": ID, "at": NOON, "colour": Colour.RED, "caption": "✓"})

    out = capsys.readouterr().out
    assert json.loads(out) == {
        "id": str(ID),
        "at": "2026-11-21T12:00:00.250000Z",
        "colour": "red",
        "caption": "✓",
    }
    assert "✓" in out


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (19 * 1024**2, "19.0 MiB"), (3 * 1024**4, "3.0 TiB")],
)
def test_sizes_for_people(size_bytes: int, shown: str) -> None:
    """Binary units, one digit after the point."""
    assert size_of(size_bytes) == shown


def test_one_is_not_many() -> None:
    """1 part, 2 parts."""
    assert [counted(number, "part") for number in (0, 1, 2)] == ["0 parts", "1 part", "2 parts"]
