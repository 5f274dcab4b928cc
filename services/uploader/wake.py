"""Takes `dump.ready` from the broker: a hint that a slot has work; the job row says which."""

import asyncio
from dataclasses import dataclass

from pydantic import ValidationError

from shared.contracts.envelope import Delivery
from shared.contracts.errors import Unreadable
from shared.contracts.messages import DumpReady


@dataclass(frozen=True, slots=True)
class Wake:
    event: asyncio.Event

    async def __call__(self, delivery: Delivery) -> None:
        """Raises Unreadable: nothing but our exporter publishes here."""
        try:
            DumpReady.model_validate_json(delivery.body)
        except ValidationError as error:
            raise Unreadable("invalid_message", "The body is no dump.ready.v1 message.") from error
        self.event.set()
