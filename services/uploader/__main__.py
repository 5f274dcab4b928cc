"""The uploader's process: opens what it needs, runs, closes in reverse."""

import sys

from services.uploader.catalogue import catalogue_duties
from services.uploader.gaps import gap_duties
from services.uploader.lane import Lane
from services.uploader.removal import removal_of
from services.uploader.sender import Sender
from services.uploader.settings import UploaderSettings
from services.uploader.upload import Upload
from services.uploader.wake import Wake
from services.worker_process import worker_process
from shared.contracts.job import StageGroup
from shared.runtime.dependencies import Dependencies
from shared.runtime.process import start_service
from shared.runtime.signing import MANIFEST, Signer
from shared.runtime.stopping import Stopping
from shared.storage.expiry import expiry_of
from shared.storage.retention import retention_of
from shared.telegram.client import telegram_of

SERVICE = "uploader"


async def main(settings: UploaderSettings, stopping: Stopping) -> None:
    """Run until `stopping`."""
    needs = Dependencies("spool", "telegram")
    opening = worker_process(StageGroup.UPLOAD, settings, stopping, service=SERVICE, needs=needs)
    async with (
        opening as process,
        telegram_of(settings) as telegram,
    ):
        await needs.opened("telegram", telegram.introduce, stopping=stopping)
        needs.probe_by("telegram", telegram.probe)
        lane = Lane.of(process.database, settings)
        await process.run(
            Upload(
                process.database,
                process.spool,
                Sender(process.database, telegram, settings.chat_ids, lane),
                Signer.of(settings.signing_secrets, purpose=MANIFEST),
            ),
            Wake(process.wake),
            retention_of(process.database, settings),
            expiry_of(process.database),
            removal_of(process.database, telegram),
            *gap_duties(process.database, telegram, settings),
            *catalogue_duties(process.database, telegram, settings, lane),
        )


def start() -> int:
    return start_service(SERVICE, UploaderSettings, main)


if __name__ == "__main__":
    sys.exit(start())
