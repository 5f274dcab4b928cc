"""What exporter and uploader have in common, opened on a spool whose disk hangs."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from services.worker_process import worker_process
from shared.contracts.errors import Unavailable
from shared.contracts.job import StageGroup
from shared.runtime.backoff import backoff
from shared.runtime.dependencies import Dependencies
from shared.runtime.stopping import Stopping
from shared.storage.spool import MARKER, Spool
from tests.integration.export_plant import plant_on
from tests.waiting import eventually


async def test_a_spool_that_hangs_is_probed_by_one_thread(
    home: str, tmp_path: Path, role_passwords: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it does; and it is found again when it answers."""
    probes: list[Spool] = []
    probe = Spool.probe

    def counted(spool: Spool) -> None:
        probes.append(spool)
        probe(spool)

    async def begun() -> bool:
        return bool(probes)

    monkeypatch.setattr("shared.runtime.dependencies.PROBE_SECONDS", 0.1)
    monkeypatch.setattr(Spool, "probe", counted)
    needs = Dependencies("spool", waits=partial(backoff, first=0.01, longest=0.02))
    async with plant_on(home, tmp_path, role_passwords) as plant:
        settings = plant.export(PGFERRY_ADMIN_PORT="0").settings
        opening = worker_process(StageGroup.DUMP, settings, Stopping(), service="exporter", needs=needs)
        async with opening as process:
            marker = process.spool.root / MARKER
            mark = marker.read_text()
            marker.unlink()
            os.mkfifo(marker)  # who opens it waits for a writer
            needs.lost(Unavailable("spool", "The spool is not there."))
            finding = asyncio.create_task(needs.found())
            await eventually(begun)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(finding), timeout=1)
            hung = len(probes)

            writer = os.open(marker, os.O_WRONLY)
            marker.unlink()
            marker.write_text(mark)
            os.close(writer)
            await eventually(lambda: _done(finding))

    assert hung == 1


async def _done(task: asyncio.Task[None]) -> bool:
    return task.done()
