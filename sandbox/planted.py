"""Dumps of random bytes, in the spool and in their jobs' rows as an exporter leaves them.

Chaos runs and tests that are after the uploader plant them: no pg_dump runs, and parts are as small and as
many as it takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from shared.contracts.job import ExportOptions, StageGroup
from shared.contracts.manifest import Dump, Part, Stream
from shared.storage.requests import Request, Source, accept
from shared.storage.spool import part_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.contracts.job import Claim
    from shared.storage.database import Database
    from shared.storage.spool import Prefix, Spool

_PLANTER = "planter"
_LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Planted:
    """A dump in the spool whose job its planter still holds."""

    claim: Claim
    dump: Dump


async def plant_dump(database: Database, spool: Spool, project: str, *, sizes: Sequence[int]) -> Dump:
    """A new job of a project that has none, with a part of each of these sizes, for an uploader to take."""
    planted = await make_dump(database, spool, project, sizes=sizes)
    await hand_over(database, planted)
    return planted.dump


async def make_dump(database: Database, spool: Spool, project: str, *, sizes: Sequence[int]) -> Planted:
    """As `plant_dump`, to be handed over.

    Nobody else may claim dumps meanwhile: no exporter runs, and plants come one after the other.
    """
    await accept(database, _request(project))
    async with database.session() as session:
        claim = await session.jobs.claim(StageGroup.DUMP, owner=_PLANTER, lease_seconds=_LEASE_SECONDS)
    if claim is None or claim.project_id != project:
        raise RuntimeError(f"the job of {project} is not the next to be dumped")
    contents = [os.urandom(size) for size in sizes]
    dump = _dump(claim, contents)
    await asyncio.to_thread(write_parts, spool.prefix(claim.job_id, claim.fence), dump, contents)
    return Planted(claim, dump)


async def hand_over(database: Database, planted: Planted) -> None:
    """An uploader may have the job."""
    async with database.transaction() as transaction:
        await transaction.jobs.dumped(planted.claim, planted.dump)


def write_parts(prefix: Prefix, dump: Dump, contents: Sequence[bytes]) -> None:
    """The prefix of this dump, whose description comes last."""
    prefix.create()
    for index, content in enumerate(contents):
        with prefix.writing(part_name(index)) as file:
            file.write(content)
    prefix.write_dump(dump)


def described(contents: Sequence[bytes]) -> tuple[Stream, tuple[Part, ...]]:
    """The stored stream that these parts make, and each of them."""
    whole = b"".join(contents)
    parts = [
        Part(index=index, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for index, content in enumerate(contents)
    ]
    return Stream(size_bytes=len(whole), sha256=hashlib.sha256(whole).hexdigest()), tuple(parts)


def _request(project: str) -> Request:
    return Request(
        request_id=uuid4(),
        options=ExportOptions.model_validate({"project_id": project}),
        source=Source.CLI,
        actor=_PLANTER,
        announce=False,
    )


def _dump(claim: Claim, contents: Sequence[bytes]) -> Dump:
    stored, parts = described(contents)
    return Dump(
        job_id=claim.job_id,
        dump_fence=claim.fence,
        project_id=claim.project_id,
        schema_name=f"tenant_{claim.project_id}",
        format=claim.options.format,
        compression=claim.options.compression,
        encryption=None,
        snapshot_at=datetime.now(UTC),
        duration_seconds=0.1,
        server_version="15.18",
        client_version="15.18",
        plain=stored,
        stored=stored,
        tables=1,
        rows=1,
        facts='{"tables": []}',
        parts=parts,
    )
