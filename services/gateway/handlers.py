"""The routes: each takes a request apart, calls one use case and words its answer."""

from dataclasses import dataclass

import structlog
from aiohttp import web
from aiohttp.hdrs import AUTHORIZATION, LOCATION, RETRY_AFTER, X_FORWARDED_FOR
from pydantic import BaseModel

from services.gateway.auth import Caller, TokenRefused, TokenVerifier
from services.gateway.bodies import read_body
from services.gateway.client_address import ClientAddresses
from services.gateway.errors import Refused
from services.gateway.exports import FindJob, Forbidden, Origin, RequestExport
from services.gateway.metrics import AUTH_FAILURES
from services.gateway.rate_limit import RateLimit
from services.gateway.schemas import AcceptedJob, Data, ExportBody, JobView
from shared.contracts.job import FINAL
from shared.storage.requests import Outcome

EXPORT_PATH = "/api/backup/export"
JOBS_PATH = "/api/backup/jobs"
#: How long a client that waits for a job should leave it alone.
POLL_SECONDS = 2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Api:
    """What the handlers work with."""

    verifier: TokenVerifier
    rate_limit: RateLimit
    addresses: ClientAddresses
    request_export: RequestExport
    find_job: FindJob


API = web.AppKey("API", Api)


def add_routes(app: web.Application) -> None:
    app.router.add_post(EXPORT_PATH, post_export)
    app.router.add_get(JOBS_PATH + "/{job_id}", get_job)


async def post_export(request: web.Request) -> web.Response:
    """The order of checks is a promise: 429, 401, 400 (413, 415), 403."""
    api = request.app[API]
    client = _client(request)
    await api.rate_limit.count(client)
    caller = _caller(request)
    body = await read_body(request, ExportBody)
    origin = Origin(caller, client, request.headers.get("traceparent"))
    try:
        accepted = await api.request_export(body, origin)
    except Forbidden as error:
        raise Refused(403, "project_forbidden", "The token is for another project.") from error
    job = accepted.job
    log.info("export accepted", job_id=str(job.id), project_id=job.project_id, outcome=accepted.outcome)
    return _answer(
        AcceptedJob.of(job),
        status=202 if accepted.outcome is Outcome.CREATED else 200,
        headers={LOCATION: f"{JOBS_PATH}/{job.id}"},
    )


async def get_job(request: web.Request) -> web.Response:
    job = await request.app[API].find_job(request.match_info["job_id"], _caller(request))
    if job is None:
        raise Refused(404, "job_not_found", "There is no such job, or it is another project's.")
    headers: dict[str, str] = {} if job.status in FINAL else {RETRY_AFTER: str(POLL_SECONDS)}
    return _answer(JobView.of(job), status=200, headers=headers)


def _client(request: web.Request) -> str:
    forwarded = request.headers.getall(X_FORWARDED_FOR, [])
    return request.app[API].addresses.client(request.remote, forwarded)


def _caller(request: web.Request) -> Caller:
    try:
        return request.app[API].verifier.caller(request.headers.get(AUTHORIZATION))
    except TokenRefused as refused:
        AUTH_FAILURES.labels(refused.code).inc()
        raise


def _answer(data: BaseModel, *, status: int, headers: dict[str, str]) -> web.Response:
    text = Data(data=data).model_dump_json()
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)
