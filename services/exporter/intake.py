"""Takes export commands from the broker: each becomes a job row, or a reason why it cannot be read.

The consumer acknowledges after this has returned, so an accepted command is in PostgreSQL by then.
"""

import asyncio
from dataclasses import dataclass
from uuid import UUID, uuid4, uuid5

import structlog
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.contracts.envelope import Delivery
from shared.contracts.errors import Unreadable
from shared.contracts.messages import ExportRequested
from shared.storage.database import Database
from shared.storage.requests import Request, Source, accept

#: Request ids of publishers whose message ids are text: uuid5 in this namespace.
_NAMESPACE = UUID("6f1c0f0e-5f0a-4a57-9b5e-6d2f9a3f4a10")
_LONGEST_MESSAGE_ID = 128

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Intake:
    database: Database
    wake: asyncio.Event

    async def __call__(self, delivery: Delivery) -> None:
        """Raises Unreadable, or Unavailable while PostgreSQL is away."""
        options = read_command(delivery)
        request = Request(
            request_id=request_id_of(delivery),
            options=options,
            source=Source.AMQP,
            actor=f"app:{delivery.app_id or 'unnamed'}",
            announce=False,
            traceparent=delivery.traceparent,
            command=delivery.body,
        )
        accepted = await accept(self.database, request)
        if accepted.job.project_id != options.project_id:
            raise Unreadable(
                "request_of_another_project", "This message id belongs to a request of another project."
            )
        log.info("command taken", job_id=str(accepted.job.id), outcome=accepted.outcome.value)
        self.wake.set()


def read_command(delivery: Delivery) -> ExportRequested:
    """Raises Unreadable: `unknown_type`, `not_json` or `invalid_message`."""
    if delivery.message_type not in {None, "", ExportRequested.type}:
        raise Unreadable(
            "unknown_type", f"This version reads {ExportRequested.type}, not {delivery.message_type!r}."
        )
    try:
        return ExportRequested.model_validate_json(delivery.body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        if any(problem["type"] == "json_invalid" for problem in problems):
            raise Unreadable("not_json", "The body is not JSON.") from error
        raise Unreadable("invalid_message", "; ".join(map(_sentence, problems))) from error


def _sentence(problem: ErrorDetails) -> str:
    return f"{'.'.join(map(str, problem['loc'])) or 'the message'}: {problem['msg']}"


def request_id_of(delivery: Delivery) -> UUID:
    """The message id if it is a UUID, one made from it if it is other text, else a new one."""
    if not delivery.message_id:
        return uuid4()
    try:
        return UUID(delivery.message_id)
    except ValueError:
        pass
    if len(delivery.message_id) > _LONGEST_MESSAGE_ID:
        raise Unreadable("message_id_too_long", f"A message id has at most {_LONGEST_MESSAGE_ID} characters.")
    return uuid5(_NAMESPACE, f"{delivery.app_id or ''}\x00{delivery.message_id}")
