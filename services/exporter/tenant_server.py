"""Whether the tenants' server is there and we have a pg_dump for it: probes of the exporter's worker."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from services.exporter.pg_dump import Client, client_for
from services.exporter.tenant import connect_tenant

ANSWER_SECONDS = 5.0
APPLICATION_NAME = "pgferry-probe"


@dataclass(frozen=True, slots=True)
class TenantServer:
    names: ClassVar = ("tenant_database", "pg_dump")  #: what errors call it, and what only it can tell
    url: str = field(repr=False)
    clients: Sequence[Client]

    async def probe(self) -> None:
        """Raises Unavailable."""
        connection = await connect_tenant(self.url, APPLICATION_NAME, answer_seconds=ANSWER_SECONDS)
        try:
            client_for(connection.get_server_version().major, self.clients)
        finally:
            connection.terminate()
