"""What pydantic refuses, in a person's words: for settings and for options of the command line.

The gateway and the messages have pydantic's own words, which are public there.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WORDS = {
    "string_pattern_mismatch": "must match the pattern '{pattern}'",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "too_short": "must name at least {min_length}",
}


def words_of(problem: "ErrorDetails") -> str:
    """What was expected; never the value, which may be a secret."""
    words = _WORDS.get(problem["type"])
    if words is None:
        return problem["msg"].removeprefix("Value error, ")
    return words.format(**{name: _plain(value) for name, value in problem.get("ctx", {}).items()})


def without_echoes(problems: Sequence["ErrorDetails"]) -> "Iterator[ErrorDetails]":
    """Of a list whose every item was refused pydantic says too that it is too short: that is left out."""
    items = {problem["loc"][0] for problem in problems if len(problem["loc"]) > 1}
    for problem in problems:
        if problem["type"] != "too_short" or problem["loc"][0] not in items:
            yield problem


def _plain(limit: object) -> object:
    """`0`, not `0.0`."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit
