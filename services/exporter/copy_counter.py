r"""Counts rows per table while a plain dump streams by, for the pipeline's first stage; `TarCounter` reads
an archive's script with it.

A COPY block is one only at the top level of the SQL: text inside quotes, dollar quotes and comments
(a function body, a comment on a table) may look like anything. So the SQL between the blocks, a small
part of a dump, goes through a lexer; the data goes through `CopyRows`, at memory speed.
"""

import re

from services.exporter.copy_rows import CopyRows

Table = tuple[str, str]
"""Schema and name."""

#: pg_dump ends a script with this line; only comments and a `\unrestrict` line follow it.
_COMPLETION = re.compile(
    rb"\n-- PostgreSQL database dump complete\n(?:(?:--[^\n]*|\\unrestrict [^\n]*)?\n)*\Z"
)
_TAIL_BYTES = 512

#: What may begin or end something at the top level of SQL.
_TOKEN = re.compile(rb"""[;'"]|--|/\*|\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$""")
_ESCAPED = re.compile(rb"\\.|''|'", re.DOTALL)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
_COPY = re.compile(
    rb'\s*COPY "((?:[^"]|"")+)"\."((?:[^"]|"")+)" (?:\("(?:[^"]|"")*"(?:, "(?:[^"]|"")*")*\))? '
    rb"FROM (?:stdin|'\$\$PATH\$\$/([^']+)');\Z",
    re.DOTALL,
)
_WORD = re.compile(rb"[A-Za-z0-9_$\x80-\xff]")
_META_COMMAND = re.compile(rb"\s*\\[^\n]*\n")
_BLANK = re.compile(rb"\s*")
_COMMENT = re.compile(rb"\s*(?:--|/\*)")


class UnknownStream(Exception):
    """The stream is not what pg_dump writes."""


class CopyCounter:
    """Feed it the stream in pieces; `rows` then holds (schema, table) -> rows.

    The script in a tar archive has no data, but says in which file each table's data are: `files`.
    """

    def __init__(self) -> None:
        self.rows: dict[Table, int] = {}
        self.files: dict[str, Table] = {}
        self._sql = bytearray()  # the begun statement, and what is not yet lexed
        self._lexed = 0  # bytes of `_sql`
        self._until: bytes | None = None  # inside a quote or comment: what ends it
        self._escapes = False  # inside E'…', where a backslash escapes
        self._depth = 0  # of nested comments
        self._table: Table | None = None  # inside this table's data
        self._block = CopyRows()  # of that table
        self._tail = b""  # of the stream so far

    @property
    def between_statements(self) -> bool:
        """Nothing is begun, no data, statement or quote: a stream that ends elsewhere is cut."""
        return self._table is None and self._until is None and not self._sql.strip()

    @property
    def complete(self) -> bool:
        """The stream ended where pg_dump ends it; rows and comments that look like that end don't count."""
        return self.between_statements and _COMPLETION.search(self._tail) is not None

    def feed(self, piece: bytearray, size: int) -> None:
        """Take the first `size` bytes of `piece`; they are not kept."""
        self._tail = (self._tail + piece[max(0, size - _TAIL_BYTES) : size])[-_TAIL_BYTES:]
        position = 0
        while position < size:
            if self._table is not None:
                position = self._data(piece, position, size)
            else:
                position = self._take_sql(piece, position, size)

    def _data(self, piece: bytearray, start: int, size: int) -> int:
        """Count rows up to the end marker; returns the position behind what was used."""
        if self._table is None:
            return start
        end = self._block.feed(piece, start, size)
        self.rows[self._table] = self._block.rows
        if self._block.ended:
            self._table = None
        return end

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
            end = len(self._sql)
            self._copy((_unquoted(copy[1]), _unquoted(copy[2])), copy[3])
        self._begin_statement(end)

    def _copy(self, table: Table, file: bytes | None) -> None:
        if file is None:
            self._open(table)
        else:
            self.files[file.decode(errors="replace")] = table

    def _open(self, table: Table) -> None:
        if table in self.rows:
            raise UnknownStream(f"the data of {'.'.join(table)} comes twice")
        self.rows[table] = 0
        self._table, self._block = table, CopyRows()

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
