"""What makes a dump good. Exit code 0 alone proves nothing: it was seen with every row missing."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.exporter.complaints import complaint_of
from services.exporter.snapshot import Snapshot
from services.exporter.stages import Cut, ReadAndCount
from shared.contracts.errors import TemporaryError

_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came out of the pipeline after every stage ended well, and how pg_dump ended."""

    plain: ReadAndCount
    cut: Cut
    exit_code: int
    stderr: str


def require_whole(streamed: Streamed, snapshot: Snapshot, rows: Mapping[str, int]) -> None:
    """Raises a Failure unless the stream is whole and holds exactly the snapshot's rows."""
    if streamed.exit_code != 0:
        raise complaint_of(streamed.exit_code, streamed.stderr)
    counter = streamed.plain.counter
    if not counter.complete:
        raise TemporaryError("stream_cut", "pg_dump's output breaks off before its end.")
    counted = {(snapshot.schema, name): count for name, count in rows.items()}
    if counter.rows != counted:
        raise TemporaryError("rows_differ", _difference(counter.rows, counted))


def _difference(streamed: Mapping[tuple[str, str], int], counted: Mapping[tuple[str, str], int]) -> str:
    tables = sorted(table for table in {*streamed, *counted} if streamed.get(table) != counted.get(table))
    shown = ", ".join(
        f"{table} (dump {streamed.get((schema, table), 'none')}, "
        f"snapshot {counted.get((schema, table), 'none')})"
        for schema, table in tables[:_NAMES_SHOWN]
    )
    more = f" and {len(tables) - _NAMES_SHOWN} more" if len(tables) > _NAMES_SHOWN else ""
    return f"The dump does not hold the snapshot's rows: {shown}{more}."
