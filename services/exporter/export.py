"""The use case: turn one claimed job into a dump in the spool, or leave nothing behind.

Called by the worker for each claim. What makes a dump good is decided in `services.exporter.success`.
"""

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from services.exporter import pg_dump
from services.exporter.copy_counter import UnknownStream
from services.exporter.describe import Encrypted, describe
from services.exporter.facts import Found, look_at
from services.exporter.metrics import observe
from services.exporter.pipeline import open_pipe, run_stages
from services.exporter.probe import Identity, Probe, probing
from services.exporter.room import Room, free_bytes, watched
from services.exporter.settings import ExporterSettings
from services.exporter.snapshot import Snapshot, hold_snapshot
from services.exporter.stages import COMPRESS, COUNTERS, Cut, Encrypt, ReadAndCount, Stage
from services.exporter.success import Streamed, require_whole
from services.exporter.tar_counter import TarCounter
from services.exporter.tenant import open_tenant
from shared.contracts.envelope import envelope_of
from shared.contracts.errors import Failure, LeaseLost, PermanentError, TemporaryError, Unavailable
from shared.contracts.job import Claim, schema_of
from shared.contracts.manifest import Dump
from shared.contracts.messages import DumpReady
from shared.runtime.spool_calls import FROZEN_SECONDS, answered, answered_within, removed
from shared.runtime.worker import Progress
from shared.storage.database import Database
from shared.storage.projects import slug_of
from shared.storage.spool import Prefix, Spool

log = structlog.get_logger(__name__)


#: What holds whichever schema has the name by now, and must not wait for a server that does not answer.
_LIMITS = {"time_limit", "raw_limit", "stored_limit"}


@dataclass(frozen=True, slots=True)
class Export:
    database: Database
    spool: Spool
    clients: Sequence[pg_dump.Client]
    settings: ExporterSettings
    free: Callable[[Path], int] = free_bytes

    async def __call__(self, claim: Claim, progress: Progress) -> None:
        """Dump, then record and announce it together. Raises a Failure, or LeaseLost."""
        schema = schema_of(await slug_of(self.database, claim.project_id))
        prefix = self.spool.prefix(claim.job_id, claim.fence)
        async with self._writing():
            await removed(partial(self.spool.remove_older, claim.job_id, claim.fence))
            await answered(partial(self._room().require_begin, claim.options.format))
        try:
            dump = await self._unless_swapped(claim, schema, prefix, progress)
            async with self._writing():
                await answered(partial(prefix.write_dump, dump))
        except BaseException:
            await removed(prefix.remove)
            raise
        progress.recording = True
        await self._record(claim, dump, prefix)
        observe(dump)
        log.info("dumped", bytes=dump.plain.size_bytes, stored_bytes=dump.stored.size_bytes, rows=dump.rows)
        if dump.warnings:
            log.warning("the backup does not carry everything", warnings=dict(dump.warnings))

    async def _record(self, claim: Claim, dump: Dump, prefix: Prefix) -> None:
        """One transaction makes the dump visible. If its outcome is unknown, the files must stay."""
        ready = DumpReady(job_id=claim.job_id, project_id=claim.project_id, dump_fence=claim.fence)
        envelope = envelope_of(
            ready, message_type=DumpReady.type, correlation_id=claim.job_id, traceparent=claim.traceparent
        )
        try:
            async with self.database.transaction() as transaction:
                await transaction.jobs.dumped(claim, dump)
                await transaction.parts.supersede_older(claim)
                await transaction.outbox.add(envelope)
        except LeaseLost:
            await removed(prefix.remove)
            raise

    async def _unless_swapped(self, claim: Claim, schema: str, prefix: Prefix, progress: Progress) -> Dump:
        """Dump while the name means the same schema, looked at from outside before and after.

        After a swap, dump and count can both see the new schema's empty tables and agree.
        """
        async with probing(
            self.settings.tenants, claim, schema, answer_seconds=self.settings.answer_seconds
        ) as probe:
            ended = await probe.end_older_sessions()
            log.debug("earlier sessions ended", sessions=ended)
            before = await probe.identity()
            await probe.require_readable(before)
            try:
                dump = await self._in_time(claim, probe, prefix, progress)
            except Unavailable:
                raise
            except Failure as error:
                if error.code in _LIMITS:
                    raise
                await _require_same_schema(probe, before, cause=error)
                raise
            await _require_same_schema(probe, before)
            return dump

    async def _in_time(self, claim: Claim, probe: Probe, prefix: Prefix, progress: Progress) -> Dump:
        try:
            async with asyncio.timeout(self.settings.dump_seconds) as limit:
                return await self._in_snapshot(claim, probe, prefix, progress)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise PermanentError(
                "time_limit",
                f"The dump took longer than {self.settings.dump_seconds:g} s (PGFERRY_DUMP_SECONDS).",
            ) from error

    async def _in_snapshot(self, claim: Claim, probe: Probe, prefix: Prefix, progress: Progress) -> Dump:
        started = time.monotonic()
        tables = await probe.tables()
        async with (
            open_tenant(self.settings.tenants, claim) as connection,
            hold_snapshot(
                connection,
                claim,
                schema=probe.schema,
                tables=tables,
                lock_seconds=self.settings.lock_seconds,
                dump_seconds=self.settings.dump_seconds,
            ) as snapshot,
        ):
            command = self._command(claim, snapshot)
            async with self._writing():
                await answered(prefix.create)
            streamed, found = await self._stream_and_count(claim, command, snapshot, prefix, progress)
            require_whole(streamed, snapshot, found.rows)
            return describe(
                claim,
                command,
                snapshot,
                streamed,
                found=found,
                encrypted=Encrypted(self.settings.age_recipients),
                duration_seconds=time.monotonic() - started,
            )

    async def _stream_and_count(
        self,
        claim: Claim,
        command: pg_dump.DumpCommand,
        snapshot: Snapshot,
        prefix: Prefix,
        progress: Progress,
    ) -> tuple[Streamed, Found]:
        """Facts and rows are read in the snapshot beside the dump: before it they would add to its time."""
        counting = asyncio.create_task(look_at(snapshot))
        try:
            streamed = await self._stream(claim, command, prefix, progress)
            return streamed, await counting
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)

    async def _stream(
        self, claim: Claim, command: pg_dump.DumpCommand, prefix: Prefix, progress: Progress
    ) -> Streamed:
        room = self._room()
        plain = ReadAndCount(progress, COUNTERS[claim.options.format](), room.require_raw)
        cut = Cut(prefix, self.settings.part_size_bytes, progress, room.require_stored)
        compress = COMPRESS[claim.options.compression]
        encrypt = Encrypt(self.settings.age_recipients) if self.settings.age_recipients else None
        stages: list[Stage] = [stage for stage in (plain, compress, encrypt, cut) if stage is not None]
        source, output = open_pipe()
        async with pg_dump.running(command, output) as dump:
            async with self._writing():
                running = run_stages(stages, source, stop=dump.kill)
                if isinstance(plain.counter, TarCounter):
                    running = watched(running, room.watch(dump.process.pid, plain.counter))
                await running
            exit_code, stderr = await dump.ended()
        return Streamed(plain, cut, exit_code, stderr)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """Give what can go wrong with stream and spool its name; paths are ours alone, so none is told.

        Raises Unavailable where it is the spool that is gone, and not only what this job has there.
        """
        try:
            yield
        except UnknownStream as error:
            raise TemporaryError(
                "stream_unknown", f"pg_dump wrote what this version cannot read: {error}."
            ) from error
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise TemporaryError("spool_full", "The spool has no room for the dump.") from error
            await answered_within(FROZEN_SECONDS, self.spool.probe)  # a tenant's locks may wait
            raise TemporaryError(
                "spool_failed", f"The dump could not be written: {error.strerror or type(error).__name__}."
            ) from error

    def _room(self) -> Room:
        return Room(self.settings, self.spool.root, self.free)

    def _command(self, claim: Claim, snapshot: Snapshot) -> pg_dump.DumpCommand:
        server_major = snapshot.connection.get_server_version().major
        return pg_dump.DumpCommand(
            client=pg_dump.client_for(server_major, self.clients),
            format=claim.options.format,
            url=self.settings.tenants,
            schema=snapshot.schema,
            snapshot=snapshot.id,
            lock_seconds=self.settings.lock_seconds,
            application_name=claim.application_name,
        )


async def _require_same_schema(probe: Probe, before: Identity, *, cause: Failure | None = None) -> None:
    """Raises TemporaryError `schema_changed`: the next attempt backs up what has the name then."""
    try:
        now: Identity | None = await probe.identity()
    except PermanentError:
        now = None
    if now != before:
        raise TemporaryError(
            "schema_changed", f"Schema {probe.schema!r} was replaced, renamed or altered during the dump."
        ) from cause
