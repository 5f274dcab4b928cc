"""The exporter's process: opens what it needs, runs, closes in reverse."""

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial

from services.exporter.duties import own_duties
from services.exporter.export import Export
from services.exporter.intake import Intake
from services.exporter.metrics import CLIENTS
from services.exporter.pg_dump import find_clients
from services.exporter.settings import ExporterSettings
from services.exporter.tenant import forget_libpq_variables
from services.exporter.tenant_server import TenantServer
from shared.contracts.job import StageGroup
from shared.contracts.topology import EXPORTER
from shared.messaging.consumer import Consumer
from shared.messaging.relay import Relay
from shared.messaging.session import Session
from shared.runtime.admin import admin_server
from shared.runtime.dependencies import Dependencies
from shared.runtime.process import beside, start_service
from shared.runtime.stopping import Stopping
from shared.runtime.worker import Worker
from shared.storage.attempts import Attempts
from shared.storage.database import open_database
from shared.storage.duties import reconciler_of
from shared.storage.nudges import DUMP, OUTBOX
from shared.storage.outbox_session import outbox_of
from shared.storage.readiness import DatabaseProbe
from shared.storage.set_aside import SetAside
from shared.storage.spool import open_spool

SERVICE = "exporter"


async def main(settings: ExporterSettings, stopping: Stopping) -> None:
    """Run until `stopping`."""
    clients = find_clients(settings.pg_bin_dirs)
    for client in clients:
        CLIENTS.labels(str(client.major), client.version).set(1)
    publishing = Session(settings.amqp_url, service=SERVICE, purpose="publisher")
    consuming = Session(settings.amqp_url, service=SERVICE, purpose="consumer")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(settings.database_url, name="pgferry-exporter")
        )
        probe = DatabaseProbe(database)
        needs = Dependencies("spool")
        needs.probe_by("database", probe.ask)
        tenants = TenantServer(settings.tenants, clients)
        for name in TenantServer.names:
            needs.probe_by(name, tenants.probe)
        ready = {
            "database": lambda: probe.answers,
            "broker": lambda: publishing.connected and consuming.connected,
            "accepting": lambda: not stopping.is_set(),
            **needs.ready("spool", *TenantServer.names),
        }
        await stack.enter_async_context(admin_server(settings.admin_host, settings.admin_port, ready))
        opening = partial(open_spool, settings.spool_url, database)
        spool = await needs.opened("spool", opening, stopping=stopping)
        needs.probe_by("spool", partial(asyncio.to_thread, spool.probe))
        wake = database.nudges.event(DUMP)
        worker = Worker(
            attempts=Attempts(
                database,
                StageGroup.DUMP,
                service=SERVICE,
                owner=f"{socket.gethostname()}:{os.getpid()}",
                lease_seconds=settings.lease_seconds,
                at_most=settings.dumps_per_server,
            ),
            work=Export(database, spool, clients, settings),
            wake=wake,
            discard=spool.remove_job,
            settings=settings,
            needs=needs,
            slots=settings.slots,
            group=StageGroup.DUMP.value,
        )
        relay = Relay(outbox_of(database), database.nudges.event(OUTBOX))
        consumer = Consumer(EXPORTER, Intake(database, wake), SetAside(database, SERVICE))
        await beside(
            partial(worker.run, stopping),
            publishing.run(relay.run),
            consuming.run(consumer.run),
            database.nudges.listen(),
            probe.run(),
            reconciler_of(database, settings, *own_duties(database, spool, settings)).run(stopping),
        )


def start() -> int:
    forget_libpq_variables(os.environ)
    return start_service(SERVICE, ExporterSettings, main)


if __name__ == "__main__":
    sys.exit(start())
