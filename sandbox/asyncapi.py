"""The AsyncAPI document of the broker's topology and messages; `sandbox.generate` writes it.

A channel is either an address to publish to (a routing key on an exchange) or a queue to consume from; an
operation is what pgferry itself does there.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from shared.contracts.messages import MESSAGES, BackupFailed, BackupStored, DumpReady, ExportRequested
from shared.contracts.topology import (
    DEAD,
    EXCHANGE_OF,
    EXCHANGES,
    EXPORTER,
    MANDATORY,
    QUEUES,
    UNREADABLE_KEY,
    UPLOADER,
    dead_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shared.contracts.messages import Message
    from shared.contracts.topology import Queue

Json = dict[str, object]

_DESCRIPTION = (
    "Messages are JSON, persistent and delivered at least once; readers are idempotent and ignore unknown "
    "fields. The routing key is the message's type; a changed meaning is a new type. A platform service may "
    "publish export.requested.v1 with nothing but project_id; the AMQP message_id, if it is a UUID, is the "
    "request id, and the same id again is the same request."
)
_AMQP = {"bindingVersion": "0.3.0"}

_DEAD_LETTER = "dead-letter"
_UNREADABLE = "unreadable"
_DEAD_LETTER_HEADERS = (
    "x-job-id",
    "x-project-id",
    "x-reason",
    "x-message",
    "x-attempts",
    "x-service",
    "x-host",
    "x-first-failed-at",
    "x-last-failed-at",
    "x-replay-count",
)
_NUMBERS = {"x-attempts", "x-replay-count"}
_UNREADABLE_HEADERS = (
    "x-reason",
    "x-message",
    "x-service",
    "x-host",
    "x-exchange",
    "x-routing-key",
    "x-message-id",
    "x-message-type",
    "x-app-id",
    "x-content-type",
    "x-correlation-id",
    "x-replay-count",
)

#: Where each message is sent, beyond those that have an exchange by their type.
_LETTERS = {
    dead_key("exporter"): _DEAD_LETTER,
    dead_key("uploader"): _DEAD_LETTER,
    UNREADABLE_KEY: _UNREADABLE,
}
_SENT = {
    "gateway": (ExportRequested.type,),
    "exporter": (DumpReady.type, BackupFailed.type, dead_key("exporter"), UNREADABLE_KEY),
    "uploader": (BackupStored.type, BackupFailed.type, dead_key("uploader"), UNREADABLE_KEY),
}
_RECEIVED = {"exporter": EXPORTER, "uploader": UPLOADER}


def schema_name(message_type: str) -> str:
    """The file of a message's JSON Schema, beside the AsyncAPI document."""
    return f"{message_type}.schema.json"


def asyncapi() -> Json:
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "pgferry",
            "version": "1.0.0",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {**dict(_addresses()), **{queue.name: _queue(queue) for queue in QUEUES}},
        "operations": dict(_operations()),
        "components": {"messages": _messages()},
    }


def _addresses() -> Iterator[tuple[str, Json]]:
    for message_type, exchange in EXCHANGE_OF.items():
        yield message_type, _address(message_type, exchange, message=message_type)
    for routing_key, message in _LETTERS.items():
        yield routing_key, _address(routing_key, DEAD, message=message)


def _address(routing_key: str, exchange: str, *, message: str) -> Json:
    declared: Json = {"name": exchange, "type": "topic", "durable": True, "autoDelete": False}
    return {
        "address": routing_key,
        "messages": {message: _reference("components", "messages", message)},
        "bindings": {"amqp": {"is": "routingKey", "exchange": declared, **_AMQP}},
        **_alternate(exchange),
    }


def _alternate(exchange: str) -> Json:
    [alternate] = [declared.alternate for declared in EXCHANGES if declared.name == exchange]
    return {"x-alternate-exchange": alternate} if alternate else {}


def _queue(queue: Queue) -> Json:
    """What a queue holds: what is published to its binding, or, of the unrouted ones, anything."""
    declared: Json = {"name": queue.name, "durable": True, "exclusive": False, "autoDelete": False}
    message = queue.binding if queue.binding in EXCHANGE_OF else _LETTERS.get(queue.binding)
    return {
        "address": queue.name,
        "messages": {message: _reference("components", "messages", message)} if message else {},
        "bindings": {"amqp": {"is": "queue", "queue": declared, **_AMQP}},
        "x-bound-to": {"exchange": queue.exchange, "routingKey": queue.binding},
        "x-arguments": dict(queue.arguments),
    }


def _operations() -> Iterator[tuple[str, Json]]:
    for service, channels in _SENT.items():
        for channel in channels:
            exchange = EXCHANGE_OF.get(channel, DEAD)
            binding: Json = {"deliveryMode": 2, "mandatory": exchange in MANDATORY, **_AMQP}
            message = _LETTERS.get(channel, channel)
            yield f"{service}.sends.{channel}", _operation("send", channel, message, binding=binding)
    for service, queue in _RECEIVED.items():
        operation = _operation("receive", queue.name, queue.binding, binding={"ack": True, **_AMQP})
        yield f"{service}.receives.{queue.binding}", operation


def _operation(action: str, channel: str, message: str, *, binding: Mapping[str, object]) -> Json:
    return {
        "action": action,
        "channel": _reference("channels", channel),
        "messages": [_reference("channels", channel, "messages", message)],
        "bindings": {"amqp": binding},
    }


def _messages() -> Json:
    letter_payload = {"$ref": f"./{schema_name(ExportRequested.type)}"}
    return {
        **{message.type: _message(message) for message in MESSAGES},
        _DEAD_LETTER: {
            "summary": "The command of a job that was given up, with the reasons as headers.",
            "payload": letter_payload,
            "headers": _headers(*_DEAD_LETTER_HEADERS),
        },
        _UNREADABLE: {
            "summary": "The bytes of a message that cannot be understood, with the reasons as headers.",
            "contentType": "application/octet-stream",
            "payload": {},
            "headers": _headers(*_UNREADABLE_HEADERS),
        },
    }


def _message(message: type[Message | ExportRequested]) -> Json:
    return {
        "name": message.type,
        "summary": (inspect.getdoc(message) or "").partition("\n\n")[0].replace("\n", " "),
        "payload": {"$ref": f"./{schema_name(message.type)}"},
        "headers": _headers("traceparent", required=False),
        "correlationId": {
            "description": "The job's id, in the property correlation_id; not read from outside.",
            "location": "$message.header#/correlation_id",
        },
    }


def _headers(*names: str, required: bool = True) -> Json:
    properties = {name: {"type": "integer" if name in _NUMBERS else "string"} for name in names}
    return {"type": "object", "properties": properties, **({"required": sorted(names)} if required else {})}


def _reference(*path: str) -> Json:
    return {"$ref": "#/" + "/".join(path)}
