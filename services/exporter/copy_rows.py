r"""Counts the rows of one table's data in COPY's text format, as it streams by.

A plain dump has the data between its statements, a tar archive in members. Each row is one line, and only
the end marker is a line of `\.` alone; `find` and `count_newlines` run at memory speed.
"""

from dataclasses import dataclass

from services.exporter.newlines import count_newlines

_END_LINE = b"\n\\.\n"
_SEAM_BYTES = len(_END_LINE) - 1


@dataclass(slots=True)
class CopyRows:
    rows: int = 0
    ended: bool = False  #: the end marker has come
    _seam: bytes = b"\n"
    """The last bytes so far: the end marker may straddle two pieces. An empty table's follows at once."""

    def feed(self, piece: bytearray, start: int, end: int) -> int:
        """Count rows in `piece[start:end]` up to the end marker; returns the position behind what it used."""
        straddling = self._end_across_seam(piece, start, end)
        if straddling is not None:
            return straddling
        found = piece.find(_END_LINE, start, end)
        stop = end if found < 0 else found + 1
        self.rows += count_newlines(piece, start, stop)
        if found < 0:
            self._seam = (self._seam + piece[max(start, end - _SEAM_BYTES) : end])[-_SEAM_BYTES:]
            return end
        self.ended = True
        return found + len(_END_LINE)

    def _end_across_seam(self, piece: bytearray, start: int, end: int) -> int | None:
        """The marker's first line end was counted as its row's; the bytes of the seam were all counted."""
        joined = self._seam + piece[start : min(start + _SEAM_BYTES, end)]
        found = joined.find(_END_LINE)
        if found < 0:
            return None
        self.ended = True
        return start + found + len(_END_LINE) - len(self._seam)
