"""The gateway's composition root: `python -m services.gateway`, or `pgferry gateway`."""

import sys
from contextlib import AsyncExitStack

from services.gateway.app import MAX_HEADER_BYTES, build_app
from services.gateway.settings import GatewaySettings
from shared.messaging.relay import Relay
from shared.messaging.session import Session
from shared.runtime.admin import admin_server, serving
from shared.runtime.process import beside, start_service
from shared.runtime.stopping import Stopping, unless
from shared.storage.database import open_database
from shared.storage.duties import reconciler_of
from shared.storage.nudges import OUTBOX
from shared.storage.outbox_session import outbox_of
from shared.storage.readiness import DatabaseProbe

#: For requests in hand after SIGTERM; below the container's 30 s.
DRAIN_SECONDS = 20.0


async def main(settings: GatewaySettings, stopping: Stopping) -> None:
    """Serve until `stopping`; starts and accepts requests with the broker down."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(settings.database_url, name="pgferry-gateway")
        )
        publisher = Session(settings.amqp_url, service="gateway", purpose="publisher")
        relay = Relay(outbox_of(database), database.nudges.event(OUTBOX))
        probe = DatabaseProbe(database)
        ready = {"database": lambda: probe.answers, "broker": lambda: publisher.connected}
        app = build_app(settings, database, ready=ready)
        await stack.enter_async_context(admin_server(settings.admin_host, settings.admin_port, ready))

        async def serve() -> None:
            async with serving(
                app,
                settings.host,
                settings.port,
                max_header_bytes=MAX_HEADER_BYTES,
                drain_seconds=DRAIN_SECONDS,
            ):
                await stopping.wait()

        await beside(
            lambda: unless(stopping.at_once, serve()),
            publisher.run(relay.run),
            database.nudges.listen(),
            probe.run(),
            reconciler_of(database, settings).run(stopping),
        )


def start() -> int:
    return start_service("gateway", GatewaySettings, main)


if __name__ == "__main__":
    sys.exit(start())
