"""Names and captions of documents: short enough for Telegram, and different from each other."""

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import pytest

from sandbox.bot_api.file_name import clean_file_name
from sandbox.bot_api.methods import MAX_CAPTION_CHARACTERS
from services.uploader import naming
from shared.contracts.job import Claim, Compression, ExportOptions, Format, StageGroup
from shared.contracts.manifest import Dump, Encryption, Part, Stream

HASH = "0" * 64
JOB_ID = UUID("1a2b3c4d-0000-4000-8000-000000000000")
OTHER_JOB_ID = UUID("1a2b3c5d-0000-4000-8000-000000000000")
LARGEST_FENCE = 999_999
LONGEST_SLUG = "a" * 56
LONGEST = {
    "filename": "F" * 48,
    "caption": "\N{WHITE HEAVY CHECK MARK}" * 512,
    "storage_path": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 200,
}


def claim_of(options: Mapping[str, str] | None = None, *, job_id: UUID = JOB_ID) -> Claim:
    return Claim(
        job_id=job_id,
        project_id="acme",
        group=StageGroup.UPLOAD,
        fence=2,
        attempts=1,
        dump_fence=1,
        options=ExportOptions.model_validate({"project_id": "acme", **(options or {})}),
        created_at=datetime.now(UTC),
        traceparent=None,
        lease_seconds=60,
        renewed_at=0,
    )


def dump_of(
    *,
    schema_name: str = "tenant_acme",
    fence: int = 1,
    dump_format: Format = Format.SQL,
    compression: Compression = Compression.ZSTD,
    encrypted: bool = True,
) -> Dump:
    return Dump(
        job_id=JOB_ID,
        dump_fence=fence,
        project_id="acme",
        schema_name=schema_name,
        format=dump_format,
        compression=compression,
        encryption=Encryption(recipients=("0" * 16,)) if encrypted else None,
        snapshot_at=datetime(2026, 11, 21, 22, 5, 9, tzinfo=UTC),
        duration_seconds=1,
        server_version="15.18",
        client_version="15.18",
        plain=Stream(size_bytes=1, sha256=HASH),
        stored=Stream(size_bytes=1, sha256=HASH),
        tables=1,
        rows=1,
        facts="{}",
        parts=(Part(index=0, size_bytes=1, sha256=HASH),),
    )


@pytest.mark.parametrize(
    ("dump", "ending"),
    [
        (dump_of(), "sql.zst.age"),
        (dump_of(encrypted=False), "sql.zst"),
        (dump_of(compression=Compression.GZIP), "sql.gz.age"),
        (dump_of(compression=Compression.NONE, encrypted=False), "sql"),
        (dump_of(dump_format=Format.TAR, compression=Compression.NONE), "tar.age"),
    ],
)
def test_the_whole_streams_name_says_how_to_undo_it(dump: Dump, ending: str) -> None:
    """Each suffix is one program, the last to be undone first."""
    assert naming.whole_name(claim_of(), dump) == f"acme-20261121T220509Z-1a2b3c4d.{ending}"


def test_the_requesters_name_comes_before_the_schemas() -> None:
    """In the names of all three."""
    claim, dump = claim_of({"filename": "before-upgrade.v2"}), dump_of(fence=7)

    assert naming.whole_name(claim, dump).startswith("before-upgrade.v2-2026")
    assert naming.part_document(claim, dump, 12) == "before-upgrade.v2-1a2b3c4d-7.p00012"
    assert naming.manifest_document(claim, dump) == "before-upgrade.v2-1a2b3c4d-7.manifest"


@pytest.mark.parametrize("filename", [None, "F" * 48, "a.b..c.", "-", "_..", "x.tar.gz"])
def test_telegram_keeps_a_documents_name_as_it_is(filename: str | None) -> None:
    """The longest label, fence and index, and dots anywhere: 64 characters before the last dot, 16 after."""
    claim, dump = (
        claim_of({"filename": filename} if filename else None),
        dump_of(schema_name=f"tenant_{LONGEST_SLUG}", fence=LARGEST_FENCE),
    )
    names = [naming.part_document(claim, dump, index) for index in (0, 99_999)]
    names.append(naming.manifest_document(claim, dump))

    assert [clean_file_name(name) for name in names] == names
    assert {len(name.rpartition(".")[0]) <= 64 and len(name.rpartition(".")[2]) <= 16 for name in names} == {
        True
    }


def test_no_two_documents_share_a_name() -> None:
    """Neither parts of one dump, nor dumps of one job, nor jobs of one project."""
    claims = [claim_of(LONGEST), claim_of(LONGEST, job_id=OTHER_JOB_ID)]
    names = [
        name
        for claim in claims
        for dump in (dump_of(fence=1), dump_of(fence=2), dump_of(fence=11))
        for name in (
            *(naming.part_document(claim, dump, index) for index in range(200)),
            naming.manifest_document(claim, dump),
        )
    ]

    assert len(names) == 2 * 3 * 201
    assert len(set(names)) == len(names)


def test_a_caption_tells_the_document_from_every_other() -> None:
    """The requester's words, where it belongs, what it is, and the whole job id."""
    claim = claim_of({"caption": "Before the upgrade", "storage_path": "invoices/2026"})

    assert naming.caption(claim, dump_of(), "part 1 of 3").splitlines() == [
        "Before the upgrade",
        "invoices/2026",
        "tenant_acme · 2026-11-21 22:05:09 UTC · part 1 of 3",
        f"job {JOB_ID}",
    ]


def test_a_caption_without_words_has_no_empty_lines() -> None:
    """Telegram would trim a first one and show others."""
    lines = naming.caption(claim_of(), dump_of(), "manifest").splitlines()

    assert lines == ["tenant_acme · 2026-11-21 22:05:09 UTC · manifest", f"job {JOB_ID}"]


def test_the_longest_caption_is_one_that_telegram_takes() -> None:
    """Counted in characters, not in bytes, whatever the requester was allowed to say."""
    dump = dump_of(schema_name=f"tenant_{LONGEST_SLUG}")

    assert len(naming.caption(claim_of(LONGEST), dump, "part 99999 of 99999")) <= MAX_CAPTION_CHARACTERS
