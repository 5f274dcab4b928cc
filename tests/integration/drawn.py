"""What is drawn for a schema piece by piece: names, types, columns, values, comments.

`tests.integration.generated_schemas` makes statements of it. Names and texts are hostile.
"""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.integration.edge_values import AWKWARD_TEXTS, TYPES, Type, literal, quoted

_NAME_BYTES = 63
#: PostgreSQL's own, and those that are added here.
_TAKEN_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid", "k", "r", "f", "own"}
_NAMES = (
    *["select", "Table", 'quo"te', "it's", "two words", "a.b", "semi;colon", "--", "/*", "$$", "new\nline"],
    *[
        "tab\t",
        "\\.",
        "%s",
        "x" * _NAME_BYTES,
        "1st",
        "COPY x FROM stdin;",
        "*",
        "?",
        "ünïcode 漢字 \U0001f600",
    ],
    *["\u202ebidi", "E'\\", "user", "return\r", "-n", " ", "UPPER", "plain"],
)
#: A constant of type regrole may not stand in what a schema stores.
_STORABLE = [type_ for type_ in TYPES if type_.sql != "regrole"]
_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_NAME = st.sampled_from(_NAMES) | st.text(_CHARACTERS, min_size=1, max_size=9)
TEXTS = st.sampled_from(AWKWARD_TEXTS) | st.text(_CHARACTERS, max_size=20)


@dataclass(frozen=True, slots=True)
class Column:
    name: str  #: quoted, as all names here
    type: Type
    rest: str = ""

    @property
    def filled(self) -> bool:
        """Whether an INSERT gives it a value."""
        return not self.rest.startswith("GENERATED")

    def __str__(self) -> str:
        return f"{self.name} {self.type.sql} {self.rest}"


@dataclass(slots=True)
class Drawn:
    """What has been drawn so far."""

    draw: st.DrawFn
    statements: list[str] = field(default_factory=list)
    types: list[Type] = field(default_factory=lambda: list(_STORABLE))
    tables: dict[str, list[Column]] = field(default_factory=dict)
    later: list[str] = field(default_factory=list)  #: statements for when every row is there
    _taken: set[str] = field(default_factory=set)

    def add(self, *statements: str) -> None:
        self.statements += statements

    def chance(self) -> bool:
        return self.draw(st.booleans())

    def one_of(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def text(self) -> str:
        """As a literal."""
        return literal(self.draw(TEXTS))

    def bare_name(self, taken: set[str]) -> str:
        """One that is not yet in `taken`."""
        drawn = self.draw(_NAME)
        name, number = drawn, 1
        while name in taken or name in _TAKEN_COLUMNS:
            number += 1
            name = f"{drawn.encode()[: _NAME_BYTES - 4].decode(errors='ignore')}{number}"
        taken.add(name)
        return name

    def name(self, taken: set[str] | None = None) -> str:
        """Quoted; by default unlike all that is not a column."""
        return quoted(self.bare_name(self._taken if taken is None else taken))

    def type(self) -> Type:
        drawn = self.draw(st.sampled_from(self.types))
        return drawn.arrays if self.number(0, 4) == 0 else drawn

    def value(self, column: Column) -> str:
        """NULL where it may be."""
        if "NOT NULL" not in column.rest and self.number(0, 5) == 0:
            return f"NULL::{column.type.sql}"
        if column.type.sql == "text" and self.chance():
            return self.text()
        return self.draw(st.sampled_from(column.type.values))

    def comment(self, kind: str, name: str) -> None:
        if self.chance():
            self.later.append(f"COMMENT ON {kind} {name} IS {self.text()}")
