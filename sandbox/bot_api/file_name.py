"""How the service rewrites the file name of an upload; used by `methods`."""

import unicodedata
from typing import Final

STEM_CHARACTERS: Final = 64
EXTENSION_CHARACTERS: Final = 16
_FORBIDDEN: Final = frozenset("<>:\"/\\|?*&`'")


def clean_file_name(name: str) -> str:
    """The last path component with stem and extension cleaned; "file" if nothing is left.

    Follows tdlib's clean_filename: 64 characters of stem and 16 of extension.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    dot = last.rfind(".", 1)
    stem, extension = (last, "") if dot < 0 else (last[:dot], last[dot + 1 :])
    parts = [_clean_part(stem, STEM_CHARACTERS), _clean_part(extension, EXTENSION_CHARACTERS)]
    return ".".join(part for part in parts if part) or "file"


def _clean_part(text: str, limit: int) -> str:
    """Leading spaces and dots do not count towards the limit, trailing ones do."""
    kept = "".join(_kept(character) for character in text)
    return kept.lstrip(" .")[:limit].rstrip(" .")


def _kept(character: str) -> str:
    if character == "\0":
        return ""
    if character.isascii():
        return character if character.isprintable() and character not in _FORBIDDEN else " "
    category = unicodedata.category(character)
    if category.startswith("M"):  # accents that stand alone vanish, other signs leave a gap
        return ""
    return character if category[0] in "LN" else " "
