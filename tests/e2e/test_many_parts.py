"""A backup of as many parts as 10 GiB make, in one chat."""

import hashlib
import json
from pathlib import Path

import asyncpg

from sandbox.bot_api.process import BotApi
from sandbox.planted import plant_dump
from sandbox.stack import Stack
from shared.storage.database import Database
from shared.storage.spool import MANIFEST_FILE, open_spool, part_name
from tests.e2e import steps

#: 10 GiB in parts of 19 MiB less what makes their sizes differ; here as small as they can differ.
_PARTS = 543


async def test_543_parts_come_back_whole(
    stack: Stack, bot_api: BotApi, connection: asyncpg.Connection, control_plane: Database, tmp_path: Path
) -> None:
    """One message for each part and one for the manifest, which names them in order; all fetched again make
    the same bytes as in the spool.
    """
    spool = await open_spool(stack.spool.as_uri(), control_plane)
    dump = await plant_dump(control_plane, spool, "acme", sizes=[1024 - n % 64 for n in range(_PARTS)])
    stack.start("uploader", **steps.QUICK)
    row = await steps.ended(connection, dump.job_id)
    fetched = steps.fetch(stack, row["backup_id"], tmp_path / "fetched").folder

    assert row["status"] == "completed"
    assert len(bot_api.messages(stack.chat_id)) == _PARTS + 1
    named = json.loads((fetched / MANIFEST_FILE).read_bytes())["parts"]
    assert [(part["index"], part["sha256"]) for part in named] == [
        (index, part.sha256) for index, part in enumerate(dump.parts)
    ]
    digest = hashlib.sha256()
    for index in range(_PARTS):
        digest.update((fetched / part_name(index)).read_bytes())
    assert digest.hexdigest() == dump.stored.sha256
