"""The uploader's process: opens what it needs, runs, closes in reverse."""

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial

from services.uploader.sender import Sender
from services.uploader.settings import UploaderSettings
from services.uploader.upload import Upload
from services.uploader.wake import Wake
from shared.contracts.job import StageGroup
from shared.contracts.topology import UPLOADER
from shared.messaging.consumer import Consumer
from shared.messaging.relay import Relay
from shared.messaging.session import Session
from shared.runtime.admin import admin_server
from shared.runtime.dependencies import Dependencies
from shared.runtime.process import beside, start_service
from shared.runtime.signing import MANIFEST, Signer
from shared.runtime.stopping import Stopping
from shared.runtime.worker import Worker
from shared.storage.attempts import Attempts
from shared.storage.database import open_database
from shared.storage.duties import reconciler_of
from shared.storage.nudges import OUTBOX, UPLOAD
from shared.storage.outbox_session import outbox_of
from shared.storage.readiness import DatabaseProbe
from shared.storage.retention import retention_of
from shared.storage.set_aside import SetAside
from shared.storage.spool import open_spool
from shared.telegram.client import open_telegram

SERVICE = "uploader"


async def main(settings: UploaderSettings, stopping: Stopping) -> None:
    """Run until `stopping`."""
    publishing = Session(settings.amqp_url, service=SERVICE, purpose="publisher")
    consuming = Session(settings.amqp_url, service=SERVICE, purpose="consumer")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(settings.database_url, name="pgferry-uploader")
        )
        probe = DatabaseProbe(database)
        needs = Dependencies("spool", "telegram")
        needs.probe_by("database", probe.ask)
        ready = {
            "database": lambda: probe.answers,
            "broker": lambda: publishing.connected and consuming.connected,
            "accepting": lambda: not stopping.is_set(),
            **needs.ready("spool", "telegram"),
        }
        await stack.enter_async_context(admin_server(settings.admin_host, settings.admin_port, ready))
        opening = partial(open_spool, settings.spool_url, database)
        spool = await needs.opened("spool", opening, stopping=stopping)
        needs.probe_by("spool", partial(asyncio.to_thread, spool.probe))
        telegram = await stack.enter_async_context(
            open_telegram(settings.bot_token.get_secret_value(), settings.telegram_api_url)
        )
        await needs.opened("telegram", telegram.introduce, stopping=stopping)
        needs.probe_by("telegram", telegram.probe)
        wake = database.nudges.event(UPLOAD)
        worker = Worker(
            attempts=Attempts(
                database,
                StageGroup.UPLOAD,
                service=SERVICE,
                owner=f"{socket.gethostname()}:{os.getpid()}",
                lease_seconds=settings.lease_seconds,
            ),
            work=Upload(
                database,
                spool,
                Sender(database, telegram, settings.chat_ids),
                Signer.of(settings.signing_secrets, purpose=MANIFEST),
            ),
            wake=wake,
            discard=spool.remove_job,
            settings=settings,
            needs=needs,
            slots=settings.slots,
            group=StageGroup.UPLOAD.value,
        )
        relay = Relay(outbox_of(database), database.nudges.event(OUTBOX))
        consumer = Consumer(UPLOADER, Wake(wake), SetAside(database, SERVICE))
        await beside(
            partial(worker.run, stopping),
            publishing.run(relay.run),
            consuming.run(consumer.run),
            database.nudges.listen(),
            probe.run(),
            reconciler_of(database, settings, retention_of(database, settings)).run(stopping),
        )


def start() -> int:
    return start_service(SERVICE, UploaderSettings, main)


if __name__ == "__main__":
    sys.exit(start())
