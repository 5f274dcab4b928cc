"""How commands show what they found: data on standard output, as a table, as fields or as JSON.

Nothing is coloured, cut or wrapped: an id can be copied from a narrow terminal and from a pipe.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import typer

_BYTES_STEP = 1024
_GAP = "  "


def show_json(value: object) -> None:
    """Readable letters as they are; what could move a terminal's cursor as JSON's own escape sequences."""
    text = json.dumps(value, indent=2, default=_json_of, ensure_ascii=False)
    typer.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    lines = [list(columns), *([text_of(value) for value in row] for row in rows)]
    widths = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (f"{text:<{width}}" for text, width in zip(line, widths, strict=True))
        typer.echo(_GAP.join(padded).rstrip())


def show_fields(record: Mapping[str, object]) -> None:
    """A line for each value that is set; a nested one by its path, like `dump.plain.size_bytes`."""
    fields = list(_flat(record))
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        typer.echo(f"{name:<{width}}{_GAP}{text_of(value)}")


def text_of(value: object) -> str:
    """One line; what could move a terminal's cursor is shown as an escape sequence's source."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, list | tuple):
        return ", ".join(text_of(item) for item in value)
    return "".join(_visible(character) for character in str(value))


def size_of(size_bytes: int) -> str:
    """`18.9 MiB`: for people; JSON has the bytes."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _BYTES_STEP:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _BYTES_STEP
    return f"{size:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """`1 part`, `2 parts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _flat(record: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _json_of(value: object) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
