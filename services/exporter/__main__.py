"""The exporter's process: opens what it needs, runs, closes in reverse."""

import os
import sys

from services.exporter.duties import own_duties
from services.exporter.export import Export
from services.exporter.intake import Intake
from services.exporter.metrics import CLIENTS
from services.exporter.pg_dump import find_clients
from services.exporter.settings import ExporterSettings
from services.exporter.tenant import forget_libpq_variables
from services.exporter.tenant_server import TenantServer
from services.worker_process import worker_process
from shared.contracts.job import StageGroup
from shared.runtime.dependencies import Dependencies
from shared.runtime.process import start_service
from shared.runtime.stopping import Stopping

SERVICE = "exporter"


async def main(settings: ExporterSettings, stopping: Stopping) -> None:
    """Run until `stopping`."""
    clients = find_clients(settings.pg_bin_dirs)
    for client in clients:
        CLIENTS.labels(str(client.major), client.version).set(1)
    needs = Dependencies("spool")
    tenants = TenantServer(settings.tenants, clients)
    for name in TenantServer.names:
        needs.probe_by(name, tenants.probe)
    opening = worker_process(StageGroup.DUMP, settings, stopping, service=SERVICE, needs=needs)
    async with opening as process:
        await process.run(
            Export(process.database, process.spool, clients, settings),
            Intake(process.database, process.wake),
            *own_duties(process.database, process.spool, settings),
            at_most=settings.dumps_per_server,
        )


def start() -> int:
    forget_libpq_variables(os.environ)
    return start_service(SERVICE, ExporterSettings, main)


if __name__ == "__main__":
    sys.exit(start())
