"""What the processes of exporter and uploader have in common: opened in order, run side by side.

Only their composition roots use it; what they do with a job, and need for it, is theirs.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from services.worker_settings import WorkerProcessSettings
from shared.contracts.job import StageGroup
from shared.contracts.topology import EXPORTER, UPLOADER
from shared.messaging.consumer import Consumer, Handler
from shared.messaging.relay import Relay
from shared.messaging.session import Session
from shared.runtime.admin import admin_server
from shared.runtime.aside import Aside
from shared.runtime.dependencies import Dependencies
from shared.runtime.process import beside
from shared.runtime.reconciler import Duty
from shared.runtime.stopping import Stopping
from shared.runtime.worker import Work, Worker
from shared.storage.attempts import Attempts
from shared.storage.database import Database, open_database
from shared.storage.duties import reconciler_of
from shared.storage.nudges import DUMP, OUTBOX, UPLOAD
from shared.storage.outbox_session import outbox_of
from shared.storage.readiness import DatabaseProbe
from shared.storage.set_aside import SetAside
from shared.storage.spool import Spool, open_spool

_QUEUES = {StageGroup.DUMP: EXPORTER, StageGroup.UPLOAD: UPLOADER}
_NUDGES = {StageGroup.DUMP: DUMP, StageGroup.UPLOAD: UPLOAD}


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    service: str
    group: StageGroup
    settings: WorkerProcessSettings
    stopping: Stopping
    needs: Dependencies
    database: Database
    probe: DatabaseProbe
    spool: Spool
    publishing: Session
    consuming: Session

    @property
    def wake(self) -> asyncio.Event:
        """Set whenever there may be a job for this half."""
        return self.database.nudges.event(_NUDGES[self.group])

    async def run(self, work: Work, handler: Handler, *duties: Duty, at_most: int | None = None) -> None:
        """Work until told to stop; `at_most` is how many jobs of this half all processes may hold."""
        relay = Relay(outbox_of(self.database), self.database.nudges.event(OUTBOX))
        consumer = Consumer(_QUEUES[self.group], handler, SetAside(self.database, self.service))
        await beside(
            partial(self._worker(work, at_most).run, self.stopping),
            self.publishing.run(relay.run),
            self.consuming.run(consumer.run),
            self.database.nudges.listen(),
            self.probe.run(),
            reconciler_of(self.database, self.settings, *duties).run(self.stopping),
        )

    def _worker(self, work: Work, at_most: int | None) -> Worker:
        attempts = Attempts(
            self.database,
            self.group,
            service=self.service,
            owner=f"{socket.gethostname()}:{os.getpid()}",
            lease_seconds=self.settings.lease_seconds,
            at_most=at_most,
        )
        return Worker(
            attempts=attempts,
            work=work,
            wake=self.wake,
            discard=self.spool.remove_job,
            settings=self.settings,
            needs=self.needs,
            slots=self.settings.slots,
            group=self.group.value,
        )


@asynccontextmanager
async def worker_process(
    group: StageGroup,
    settings: WorkerProcessSettings,
    stopping: Stopping,
    *,
    service: str,
    needs: Dependencies,
) -> AsyncIterator[WorkerProcess]:
    """Opened when the spool is there; `needs` names what else a job of this half needs. Raises Stopped."""
    publishing = Session(settings.amqp_url, service=service, purpose="publisher")
    consuming = Session(settings.amqp_url, service=service, purpose="consumer")
    async with open_database(settings.database_url, name=f"pgferry-{service}") as database:
        probe = DatabaseProbe(database)
        ready = {
            "database": lambda: probe.answers,
            "broker": lambda: publishing.connected and consuming.connected,
            "accepting": lambda: not stopping.is_set(),
            **needs.ready(),
        }
        needs.probe_by("database", probe.ask)
        async with admin_server(settings.admin_host, settings.admin_port, ready):
            disk = Aside("spool")
            opening = partial(open_spool, settings.spool_url, database, disk=disk)
            spool = await needs.opened("spool", opening, stopping=stopping)
            needs.probe_by("spool", partial(disk, spool.probe))
            yield WorkerProcess(
                service, group, settings, stopping, needs, database, probe, spool, publishing, consuming
            )
