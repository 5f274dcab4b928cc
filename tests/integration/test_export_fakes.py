"""Success cannot be faked: whatever pg_dump answers, a dump that is not whole is a failed attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.contracts.errors import PermanentError, TemporaryError
from tests.integration.export_plant import Plant, plant_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def plant(home: str, tmp_path: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    """With one tenant of three tables."""
    async with plant_on(home, tmp_path, role_passwords) as plant:
        await plant.add_tenant("acme", rows=200)
        yield plant


@pytest.mark.parametrize(
    ("script", "code", "sentence"),
    [
        ('$REAL "$@"; exit 1', "pg_dump_failed", "pg_dump ended with 1: no message"),
        (
            '$REAL "$@"; echo "pg_dump: error: so it is" >&2; exit 3',
            "pg_dump_failed",
            "pg_dump ended with 3: pg_dump: error: so it is",
        ),
        (
            '$REAL "$@" | head -c 9000; kill -KILL $$',
            "pg_dump_failed",
            "pg_dump ended with -9: no message",
        ),
        ("exit 0", "stream_cut", "pg_dump's output breaks off before its end."),
        (
            '$REAL "$@" | head -c 9000; exit 0',
            "stream_cut",
            "pg_dump's output breaks off before its end.",
        ),
        (
            "$REAL \"$@\" | sed '/^-- PostgreSQL database dump complete/,$d'",
            "stream_cut",
            "pg_dump's output breaks off before its end.",
        ),
        (
            "$REAL \"$@\" | grep -v '^77\tCustomer 77$'",
            "rows_differ",
            "The dump does not hold the snapshot's rows: customers (dump 199, snapshot 200).",
        ),
        (
            "$REAL \"$@\" | sed 's/^77\tCustomer 77$/&\\n&/'",
            "rows_differ",
            "The dump does not hold the snapshot's rows: customers (dump 201, snapshot 200).",
        ),
        (
            '$REAL "$@" | sed \'/^COPY .*"notes"/,/^\\\\\\.$/d\'',
            "rows_differ",
            "The dump does not hold the snapshot's rows: notes (dump none, snapshot 200).",
        ),
        (
            '$REAL "$@" | sed \'s/^COPY "tenant_acme"/COPY "tenant_other"/\'',
            "rows_differ",
            "The dump does not hold the snapshot's rows: customers (dump none, snapshot 200), "
            "notes (dump none, snapshot 200), orders (dump none, snapshot 200) and 3 more.",
        ),
        (
            '$REAL "$@" | sed \'s/"orders" (.*) FROM stdin/"notes" ("body") FROM stdin/\'',
            "stream_unknown",
            "pg_dump wrote what this version cannot read: the data of tenant_acme.notes comes twice.",
        ),
    ],
    ids=[
        "exit 1 after everything",
        "an error and exit 3",
        "killed within the data",
        "nothing at all",
        "cut within the data",
        "cut before the completion line",
        "a row too few",
        "a row too many",
        "no data of one table",
        "another schema",
        "one table's rows as another's",
    ],
)
async def test_a_dump_that_is_not_whole_fails(plant: Plant, script: str, code: str, sentence: str) -> None:
    """With its reason, to be tried again, and no file stays."""
    claim = await plant.claim()

    failure = await plant.failure(claim, **plant.pg_dump(script))

    assert (failure.code, failure.sentence) == (code, sentence)
    assert isinstance(failure, TemporaryError)


@pytest.mark.parametrize(
    ("script", "code", "sentence"),
    [
        (
            '$REAL "$@" | head -c 9000; exit 0',
            "stream_cut",
            "pg_dump's output breaks off before its end.",
        ),
        (
            '$REAL "$@" | head -c -1; exit 0',
            "stream_cut",
            "pg_dump's output breaks off before its end.",
        ),
        (
            '$REAL "$@"; head -c 512 /dev/zero',
            "stream_unknown",
            "pg_dump wrote what this version cannot read: the archive goes on behind its end.",
        ),
        (
            "$REAL \"$@\" | sed -z 's/\\n77\\tCustomer 77\\n/ 77\\tCustomer 77\\n/'",
            "rows_differ",
            "The dump does not hold the snapshot's rows: customers (dump 199, snapshot 200).",
        ),
        (
            '$REAL "${@/--format=tar/--format=plain}"',
            "stream_unknown",
            "pg_dump wrote what this version cannot read: a header in the archive is damaged.",
        ),
    ],
    ids=["cut within the data", "cut within the end", "more than the end", "a row too few", "plain SQL"],
)
async def test_an_archive_that_is_not_whole_fails(
    plant: Plant, script: str, code: str, sentence: str
) -> None:
    """Exit code 0 each time; pg_restore would list every table of most of them."""
    claim = await plant.claim(format="tar")

    failure = await plant.failure(claim, **plant.pg_dump(script))

    assert (failure.code, failure.sentence) == (code, sentence)
    assert isinstance(failure, TemporaryError)


async def test_a_row_cannot_stand_for_the_completion_line(plant: Plant) -> None:
    """A tenant's text ends as a dump does, all rows are there, and what follows them is cut off."""
    await plant.owner.execute(
        """
        CREATE TABLE tenant_acme.the_last (line text);
        INSERT INTO tenant_acme.the_last VALUES ('-- PostgreSQL database dump complete');
        GRANT SELECT ON tenant_acme.the_last TO pgferry_dump
        """
    )
    claim = await plant.claim()
    data_only = "$REAL \"$@\" | sed '/pg_catalog.setval/,$d'"

    failure = await plant.failure(claim, **plant.pg_dump(data_only))

    assert failure.code == "stream_cut"


async def test_a_dump_that_never_ends_is_ended(plant: Plant) -> None:
    """After its time, whatever it waits for; a longer one next time would not help."""
    claim = await plant.claim()

    failure = await plant.failure(
        claim, PGFERRY_DUMP_SECONDS="0.5", **plant.pg_dump('$REAL "$@"; exec >&-; sleep 60')
    )

    assert isinstance(failure, PermanentError)
    assert (failure.code, failure.sentence) == (
        "time_limit",
        "The dump took longer than 0.5 s (PGFERRY_DUMP_SECONDS).",
    )


async def test_what_a_good_dump_complains_about_is_kept(plant: Plant) -> None:
    """Standard error becomes warnings, for the owner of the data only."""
    claim = await plant.claim()

    await plant.attempt(claim, **plant.pg_dump('echo "pg_dump: warning: hm" >&2; exec $REAL "$@"'))

    assert plant.facts(claim).warnings == ("pg_dump: warning: hm",)


async def test_an_endless_complaint_does_not_fill_the_memory(plant: Plant) -> None:
    """The end of standard error is kept, and pg_dump is never held up by it."""
    claim = await plant.claim()
    script = "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo last words >&2; exit 1"

    failure = await plant.failure(claim, **plant.pg_dump(script))

    assert failure.sentence == "pg_dump ended with 1: last words"
