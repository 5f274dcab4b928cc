"""Puts the API together from what it depends on; `__main__` and tests serve it."""

from aiohttp import web

from services.gateway.bodies import MAX_BODY_BYTES
from services.gateway.client_address import ClientAddresses
from services.gateway.exports import FindJob, RequestExport
from services.gateway.handlers import API, Api, add_routes
from services.gateway.metrics import HTTP_DURATION
from services.gateway.middleware import counted, explained, identified
from services.gateway.rate_limit import RateLimit
from services.gateway.settings import GatewaySettings
from shared.runtime.admin import Ready, add_health
from shared.storage.database import Database

#: A header may be this long, so that a token far over its own limit is still refused in our words.
MAX_HEADER_BYTES = 64 * 1024


def build_app(settings: GatewaySettings, database: Database, *, ready: Ready) -> web.Application:
    app = web.Application(middlewares=[identified, counted, explained], client_max_size=MAX_BODY_BYTES)
    app[API] = Api(
        verifier=settings.verifier(),
        rate_limit=RateLimit(settings.rate_limit),
        addresses=ClientAddresses(settings.trusted_proxies),
        request_export=RequestExport(database),
        find_job=FindJob(database),
    )
    add_routes(app)
    add_health(app, ready)
    for resource in app.router.resources():
        HTTP_DURATION.labels(resource.canonical)
    return app
