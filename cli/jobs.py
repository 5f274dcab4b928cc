"""`pgferry export` and `pgferry jobs …`."""

import asyncio
import time
from dataclasses import asdict
from typing import Annotated
from uuid import UUID, uuid4

import typer
from pydantic import ValidationError

from cli.output import show_fields, show_json, show_table
from cli.run import CannotDo, control_plane, fail, finished, refuse_options
from shared.contracts.job import FINAL, Compression, ExportOptions, Format, Priority, Status
from shared.storage.cancel import Cancellation, Way
from shared.storage.cancel import cancel as cancel_job
from shared.storage.database import Database
from shared.storage.jobs import Job
from shared.storage.requests import Accepted, Outcome, Request, Source, accept

app = typer.Typer(no_args_is_help=True, help="Look at export jobs, and cancel them.")

_WAIT_SECONDS = 0.5

JobId = Annotated[UUID, typer.Argument(help="As `pgferry jobs list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def export(
    project: Annotated[str, typer.Argument(help="The project's id in control_plane.projects.")],
    format: Annotated[Format, typer.Option(help="pg_dump's format.")] = Format.SQL,  # noqa: A002
    compression: Annotated[Compression, typer.Option(help="Before it is encrypted.")] = Compression.ZSTD,
    priority: Annotated[Priority, typer.Option(help="High ones are begun first.")] = Priority.NORMAL,
    caption: Annotated[str | None, typer.Option(help="Shown with every document in the chat.")] = None,
    filename: Annotated[str | None, typer.Option(help="Begins every document's name.")] = None,
    storage_path: Annotated[str | None, typer.Option(help="A label like invoices/2026.")] = None,
    expires_in_days: Annotated[
        int | None, typer.Option(help="From then on uploaders delete it, unless it is the newest.")
    ] = None,
    notify_email: Annotated[
        str | None, typer.Option(help="Kept with the request; this version mails nobody.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exit 1 unless completed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for a backup of PROJECT.

    Example: pgferry export acme --wait
    """
    try:
        options = ExportOptions(
            project_id=project,
            format=format,
            compression=compression,
            priority=priority,
            caption=caption,
            filename=filename,
            storage_path=storage_path,
            expires_in_days=expires_in_days,
            notify_email=notify_email,
        )
    except ValidationError as error:
        refuse_options(error, project_id="PROJECT")
    job = finished(_export(options, wait=wait))
    _show(job, as_json=as_json)
    if wait and job.status is not Status.COMPLETED:
        fail(f"job {job.id} {_end_of(job)}")


@app.command("list")
def list_jobs(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    status: Annotated[
        Status | None, typer.Option(metavar="<status>", help=f"Only these: {', '.join(Status)}.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The newest jobs first.

    Example: pgferry jobs list --project acme --status failed
    """
    jobs = finished(_list(project, status, limit))
    if as_json:
        show_json([_public(job) for job in jobs])
        return
    show_table(
        ("JOB", "PROJECT", "STATUS", "STAGE", "CREATED", "ERROR"),
        [(job.id, job.project_id, job.status, job.stage, job.created_at, job.error_code) for job in jobs],
    )


@app.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Everything about one job.

    Example: pgferry jobs show 5f0c2a9e-6d1b-4f0e-9a37-2f6f3c8d7b10 --json
    """
    _show(finished(_find(job_id)), as_json=as_json)


@app.command()
def cancel(
    job_id: JobId,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until its worker has stopped; exit 1 unless cancelled.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds that --wait waits.")] = 120,
) -> None:
    """Cancel a job: at once where no worker holds it, else by asking its worker to stop.

    A worker that runs stops within seconds. If it died, its lease must lapse first: ask again, or --wait.

    Example: pgferry jobs cancel 5f0c2a9e-6d1b-4f0e-9a37-2f6f3c8d7b10 --wait
    """
    done = finished(_cancel(job_id, timeout=timeout if wait else 0.0))
    if done.job.status in FINAL and done.job.status is not Status.CANCELLED:
        fail(f"the cancel came too late: job {job_id} {_end_of(done.job)}")
    if done.job.status is not Status.CANCELLED and wait:
        fail(f"job {job_id} is still held after {timeout:g} s; it ends when its worker sees the request")
    typer.echo(_came_to(done))


async def _export(options: ExportOptions, *, wait: bool) -> Job:
    async with control_plane() as database:
        accepted = await accept(
            database,
            Request(request_id=uuid4(), options=options, source=Source.CLI, actor="cli", announce=True),
        )
        typer.echo(_said_of(accepted), err=True)
        return await _ended(database, accepted.job) if wait else accepted.job


async def _ended(database: Database, job: Job) -> Job:
    """The job when it is final; each stage that is seen on the way is said on standard error."""
    try:
        while job.status not in FINAL:
            await asyncio.sleep(_WAIT_SECONDS)
            before, job = job, await _found(database, job.id)
            if before.stage is not job.stage:
                typer.echo(f"job {job.id}: {job.stage}", err=True)
    except asyncio.CancelledError:
        typer.echo(f"\npgferry: stopped waiting; the job goes on: pgferry jobs show {job.id}", err=True)
        raise
    return job


async def _list(project: str | None, status: Status | None, limit: int) -> list[Job]:
    async with control_plane() as database, database.session() as session:
        return await session.jobs.list(project_id=project, status=status, limit=limit)


async def _find(job_id: UUID) -> Job:
    async with control_plane() as database:
        return await _found(database, job_id)


async def _found(database: Database, job_id: UUID) -> Job:
    async with database.session() as session:
        job = await session.jobs.find(job_id)
    if job is None:
        raise _unknown(job_id)
    return job


async def _cancel(job_id: UUID, *, timeout: float) -> Cancellation:  # noqa: ASYNC109 - of the command line
    """Ask, and ask again until the job has ended: that of a dead worker can be when its lease has lapsed."""
    deadline = time.monotonic() + timeout
    async with control_plane() as database:
        first = done = await _asked_to_cancel(database, job_id)
        if first.way is Way.TOO_LATE:
            raise CannotDo(f"job {job_id} is {first.job.status} already")
        while done.job.status not in FINAL and time.monotonic() < deadline:
            await asyncio.sleep(_WAIT_SECONDS)
            done = await _asked_to_cancel(database, job_id)
    return done


async def _asked_to_cancel(database: Database, job_id: UUID) -> Cancellation:
    done = await cancel_job(database, job_id, actor="cli")
    if done is None:
        raise _unknown(job_id)
    return done


def _unknown(job_id: UUID) -> CannotDo:
    return CannotDo(f"no job {job_id}; pgferry jobs list shows those that are recorded")


def _came_to(done: Cancellation) -> str:
    job = done.job
    if job.status is Status.CANCELLED:
        by = "" if done.way is Way.AT_ONCE else " by its worker"
        return f"cancelled {job.id} of project {job.project_id}{by}"
    again = " again" if done.way is Way.ASKED_BEFORE else ""
    return f"told the worker of {job.id} of project {job.project_id}{again} to stop ({job.stage})"


def _said_of(accepted: Accepted) -> str:
    if accepted.outcome is Outcome.COALESCED:
        return f"job {accepted.job.id}: waits already with the same options; this request joined it"
    return f"job {accepted.job.id}: created"


def _end_of(job: Job) -> str:
    if job.status is Status.FAILED:
        return f"failed with {job.error_code}: {job.error_message}"
    return f"was {job.status}"


def _show(job: Job, *, as_json: bool) -> None:
    if as_json:
        show_json(_public(job))
    else:
        show_fields(_public(job))


def _public(job: Job) -> dict[str, object]:
    shown = asdict(job)
    for name in ("command", "options", "dump", "traceparent"):
        del shown[name]
    shown["options"] = job.options.model_dump(exclude={"project_id", "notify_email"})
    shown["dump"] = job.dump.model_dump(exclude={"facts", "job_id"}) if job.dump else None
    return shown
