"""Writes the documents that are made from the code: `python -m sandbox.generate`; `--check` only compares.

JSON Schemas of the messages and the AsyncAPI document go to docs/messages, the settings to docs/settings.md.
`./run check` runs it with `--check`, so a document cannot drift from the code.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox import settings_page
from sandbox.asyncapi import asyncapi, schema_name
from shared.contracts.messages import MESSAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.contracts.messages import ExportRequested, Message

DOCS = Path(__file__).parents[1] / "docs"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, str]:
    """Each document's path below docs/, and what must be in it."""
    messages: dict[str, object] = {schema_name(message.type): _schema(message) for message in MESSAGES}
    messages["asyncapi.json"] = asyncapi()
    written = {f"messages/{name}": _json(content) for name, content in messages.items()}
    return {**written, "settings.md": settings_page.page()}


def differing(docs: Path) -> list[str]:
    """The documents that are missing or differ, and the messages' files that no code makes."""
    wanted = documents()
    wrong = [name for name, text in wanted.items() if _read(docs / name) != text]
    kept = {f"messages/{path.name}" for path in (docs / "messages").glob("*")}
    return sorted([*wrong, *(kept - set(wanted))])


def write(docs: Path) -> None:
    for name, text in documents().items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document differs")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of the documents")
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.docs)
        return 0
    wrong = differing(options.docs)
    for name in wrong:
        sys.stderr.write(f"docs/{name} differs from the code: run python -m sandbox.generate\n")
    return 1 if wrong else 0


def _schema(message: type[Message | ExportRequested]) -> Mapping[str, object]:
    """What a reader accepts; it ignores further fields."""
    return {"$schema": _DIALECT, "$id": schema_name(message.type), **message.model_json_schema()}


def _json(content: object) -> str:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
