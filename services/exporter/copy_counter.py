r"""Counts rows per table while a plain dump streams by. Used by the pipeline's first stage.

A COPY block is one only at the top level of the SQL: text inside quotes, dollar quotes and comments
(a function body, a comment on a table) may look like anything. So the SQL between the blocks, a small
part of a dump, goes through a lexer; the data goes through `find` and `count`, which run at memory speed.
In COPY's text format each row is one line, and only the end marker is a line of `\.` alone.
"""

import re

_END = b"\\.\n"
_END_LINE = b"\n\\.\n"

#: What may begin or end something at the top level of SQL.
_TOKEN = re.compile(rb"""[;'"]|--|/\*|\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$""")
_ESCAPED = re.compile(rb"\\.|''|'", re.DOTALL)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
_COPY = re.compile(
    rb'\s*COPY "((?:[^"]|"")+)"\."((?:[^"]|"")+)" (?:\("(?:[^"]|"")*"(?:, "(?:[^"]|"")*")*\))? FROM stdin;\Z',
    re.DOTALL,
)
_WORD = re.compile(rb"[A-Za-z0-9_$\x80-\xff]")
_META_COMMAND = re.compile(rb"\s*\\[^\n]*\n")
_BLANK = re.compile(rb"\s*")
_COMMENT = re.compile(rb"\s*(?:--|/\*)")


class UnknownStream(Exception):
    """The stream is not what pg_dump writes."""


class CopyCounter:
    """Feed it the stream in pieces; `rows` then holds (schema, table) -> rows."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], int] = {}
        self._sql = bytearray()  # the begun statement, and what is not yet lexed
        self._lexed = 0  # bytes of `_sql`
        self._until: bytes | None = None  # inside a quote or comment: what ends it
        self._escapes = False  # inside E'…', where a backslash escapes
        self._depth = 0  # of nested comments
        self._table: tuple[str, str] | None = None  # inside this table's data
        self._seam = b""  # the last bytes of the data so far: the end marker may straddle two pieces

    @property
    def between_statements(self) -> bool:
        """Nothing is begun, no data, statement or quote: a stream that ends elsewhere is cut."""
        return self._table is None and self._until is None and not self._sql.strip()

    def feed(self, piece: bytearray, size: int) -> None:
        """Take the first `size` bytes of `piece`; they are not kept."""
        position = 0
        while position < size:
            if self._table is not None:
                position = self._data(piece, position, size)
            else:
                position = self._take_sql(piece, position, size)

    def _data(self, piece: bytearray, start: int, size: int) -> int:
        """Count rows up to the end marker; returns the position behind what was used."""
        if self._seam:
            end = self._end_across_seam(piece, start, size)
            if end is not None:
                return end
        found = piece.find(_END_LINE, start, size)
        end = size if found < 0 else found + 1
        self._count(piece.count(b"\n", start, end))
        if found < 0:
            self._seam = (self._seam + piece[max(start, size - 3) : size])[-3:]
            return size
        self._close()
        return found + len(_END_LINE)

    def _end_across_seam(self, piece: bytearray, start: int, size: int) -> int | None:
        """The end marker may begin in the last three bytes already seen, which are counted."""
        joined = self._seam + piece[start : min(start + 3, size)]
        found = joined.find(_END_LINE)
        if found < 0:
            return None
        position = start + found + len(_END_LINE) - len(self._seam)
        self._close()
        return position

    def _count(self, lines: int) -> None:
        if self._table is not None:
            self.rows[self._table] += lines

    def _close(self) -> None:
        self._table = None
        self._seam = b""

    def _take_sql(self, piece: bytearray, start: int, size: int) -> int:
        """Add whole lines one by one until a COPY begins; returns the position behind what was used."""
        while start < size:
            newline = piece.find(b"\n", start, size)
            if newline < 0:
                self._sql += piece[start:size]
                return size
            self._sql += piece[start : newline + 1]
            start = newline + 1
            self._lex()
            if self._table is not None:
                return start
        return start

    def _lex(self) -> None:
        """Go through the newly added whole lines, from token to token."""
        while self._lexed < len(self._sql):
            if self._until is not None:
                self._inside()
            elif not self._top_level():
                return

    def _top_level(self) -> bool:
        """Find the next token; False when the rest of the line holds none."""
        meta = _META_COMMAND.match(self._sql, self._lexed) if self._at_beginning() else None
        if meta:  # \restrict and its like end with their line
            self._begin_statement(meta.end())
            return True
        token = _TOKEN.search(self._sql, self._lexed)
        if token is None:
            self._lexed = len(self._sql)
            return False
        self._lexed = token.end()
        match token[0]:
            case b";":
                self._end_statement(token.end())
            case b"'":
                self._until, self._escapes = b"'", self._is_escape_string(token.start())
            case b'"':
                self._until = b'"'
            case b"--":
                self._until = b"\n"
            case b"/*":
                self._until, self._depth = b"*/", 1
            case tag if not self._follows_word(token.start()):
                self._until = tag
            case _:
                self._lexed = token.start() + 1
        return True

    def _inside(self) -> None:
        """Skip to the end of the quote or comment; a doubled quote simply begins the next one."""
        if self._until == b"*/":
            self._inside_comment()
        elif self._escapes:
            self._inside_escape_string()
        elif self._until is not None:
            end = self._sql.find(self._until, self._lexed)
            self._leave(end, end + len(self._until))
            self._drop_leading_comment()

    def _inside_escape_string(self) -> None:
        for token in _ESCAPED.finditer(self._sql, self._lexed):
            if token[0] == b"'":
                self._escapes = False
                self._leave(token.start(), token.end())
                return
        self._leave(-1, 0)

    def _inside_comment(self) -> None:
        edge = _COMMENT_EDGE.search(self._sql, self._lexed)
        if edge is None:
            self._leave(-1, 0)
            return
        self._depth += 1 if edge[0] == b"/*" else -1
        self._lexed = edge.end()
        if self._depth == 0:
            self._until = None
            self._drop_leading_comment()

    def _drop_leading_comment(self) -> None:
        """A comment before a statement is no part of it."""
        if self._until is None and _COMMENT.match(self._sql):
            self._begin_statement(self._lexed)

    def _leave(self, found: int, behind: int) -> None:
        if found < 0:
            self._lexed = len(self._sql)
        else:
            self._lexed, self._until = behind, None

    def _end_statement(self, end: int) -> None:
        copy = _COPY.match(self._sql[:end])
        if copy is not None and end + 1 == len(self._sql):
            self._open(_unquoted(copy[1]), _unquoted(copy[2]))
            self._begin_statement(len(self._sql))
        else:
            self._begin_statement(end)

    def _open(self, schema: str, table: str) -> None:
        if (schema, table) in self.rows:
            raise UnknownStream(f"the data of {schema}.{table} comes twice")
        self.rows[schema, table] = 0
        self._table = (schema, table)
        self._seam = b"\n"  # an empty table's end marker follows at once

    def _at_beginning(self) -> bool:
        """Nothing but white space has come of the statement. (Looked at in place: it may be long.)"""
        blank = _BLANK.match(self._sql)
        return blank is not None and blank.end() >= self._lexed

    def _begin_statement(self, start: int) -> None:
        del self._sql[:start]
        self._lexed = 0

    def _is_escape_string(self, quote: int) -> bool:
        prefix = bytes(self._sql[max(0, quote - 2) : quote])
        return prefix[-1:] in {b"E", b"e"} and not _WORD.match(prefix[:-1])

    def _follows_word(self, position: int) -> bool:
        return position > 0 and _WORD.match(self._sql, position - 1) is not None


def _unquoted(name: bytes) -> str:
    return name.replace(b'""', b'"').decode()
