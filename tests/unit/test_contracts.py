"""What the services promise each other, as far as it can be checked without a server."""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from sandbox import generate
from shared.contracts.envelope import dead_letter, envelope_of
from shared.contracts.errors import PermanentError
from shared.contracts.job import FINAL, MOVES, ExportOptions, Priority, Stage, StageGroup, Status, schema_of
from shared.contracts.messages import MESSAGES, BackupFailed, BackupStored, DumpReady, ExportRequested
from shared.contracts.topology import (
    COMMANDS,
    DEAD,
    EVENTS,
    EXCHANGE_OF,
    EXCHANGES,
    MANDATORY,
    QUEUES,
    UNROUTED,
    dead_key,
)

JOB, BACKUP = UUID(int=1), UUID(int=2)
NOW = datetime(2026, 11, 22, tzinfo=UTC)

EXAMPLES: tuple[BaseModel, ...] = (
    ExportRequested(project_id="acme", caption="Büro", priority=Priority.HIGH, expires_in_days=30),
    DumpReady(job_id=JOB, project_id="acme", dump_fence=3),
    BackupStored(
        backup_id=BACKUP,
        job_id=JOB,
        project_id="acme",
        size_bytes=1,
        sha256="0" * 64,
        parts=1,
        tables=0,
        rows=0,
        stored_at=NOW,
    ),
    BackupFailed(
        job_id=JOB, project_id="acme", group=StageGroup.DUMP, code="c", reason="r", attempts=3, failed_at=NOW
    ),
)


# Messages


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_way(message: BaseModel) -> None:
    """What is written is read again, also with fields that a newer sender adds."""
    written = message.model_dump_json()
    newer = json.dumps({**json.loads(written), "added_later": {"x": 1}})

    assert type(message).model_validate_json(written) == message
    assert type(message).model_validate_json(newer) == message


def test_every_message_has_an_example_here() -> None:
    """So that none goes untested."""
    assert {type(example) for example in EXAMPLES} == set(MESSAGES)


def test_a_project_is_enough() -> None:
    """A platform service publishes nothing but the project."""
    asked = ExportRequested.model_validate_json('{"project_id": "acme"}')

    assert (asked.format, asked.compression, asked.priority) == ("sql", "zstd", "normal")
    optional = asked.model_dump(
        include={"caption", "filename", "storage_path", "expires_in_days", "notify_email"}
    )
    assert set(optional.values()) == {None}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project_id", value)
        for value in ("", "a b", "a/b", "ä", "a\n", "x" * 65, 7, None, "../acme", "acme\x00")
    ]
    + [("format", value) for value in ("", "SQL", "custom", 1)]
    + [("compression", "bzip2"), ("priority", "urgent"), ("priority", 0)]
    + [
        ("notify_email", value)
        for value in ("", "nobody", "a@b", "a@example.org\nBcc: x", "x" * 250 + "@example.org")
    ]
    + [
        ("storage_path", value)
        for value in ("", "/a", "a/../b", "a//b", ".", "a/", "a\\b", "a\x00", "x" * 201)
    ]
    + [("caption", value) for value in ("", "x" * 513, "a\x00", "a\nb", "a\x1b[31m", "\ud800", 7)]
    + [("filename", value) for value in ("", ".hidden", "a/b", "a b", "x" * 49, "é", "a\n")]
    + [("expires_in_days", value) for value in (0, 3651, -1, 1.5, "7", True)],
)
def test_an_option_that_cannot_be_meant_is_refused(field: str, value: object) -> None:
    """For requests by HTTP and by message alike."""
    with pytest.raises(ValidationError) as caught:
        ExportOptions.model_validate({"project_id": "acme", field: value})

    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project_id", "A-z_9" + 59 * "x"),
        ("storage_path", "invoices/2026/ä b"),
        ("caption", "ü" * 512),
        ("filename", "_a.B-9" + 42 * "x"),
        ("expires_in_days", 3650),
        ("notify_email", "a.b+c@example.org"),
    ],
)
def test_an_option_at_its_limit_is_taken(field: str, value: object) -> None:
    """The longest that is allowed, and all the characters."""
    assert getattr(ExportOptions.model_validate({"project_id": "acme", field: value}), field) == value


# Slugs


@pytest.mark.parametrize("slug", ["a", "0", "acme", "a-b_c", "x" * 56])
def test_a_slug_names_a_schema(slug: str) -> None:
    """Within PostgreSQL's 63 bytes."""
    assert schema_of(slug) == f"tenant_{slug}"
    assert len(schema_of(slug)) <= 63


@given(st.text(max_size=60))
def test_any_other_slug_is_refused(slug: str) -> None:
    """No pattern character, quote, capital or line end gets as far as pg_dump."""
    safe = slug and len(slug) <= 56 and slug[0] not in "_-"
    safe = safe and all(character in "abcdefghijklmnopqrstuvwxyz0123456789_-" for character in slug)
    if safe:
        assert schema_of(slug) == f"tenant_{slug}"
        return
    with pytest.raises(PermanentError) as caught:
        schema_of(slug)
    assert caught.value.code == "invalid_slug"


# Moves


def test_the_public_status_only_moves_forward() -> None:
    """pending, running, an end; nothing leaves an end but a requeue of a failed job."""
    order = {Status.PENDING: 0, Status.RUNNING: 1} | dict.fromkeys(FINAL, 2)

    for (before, _), (after, _) in MOVES:
        if before is Status.FAILED:
            assert after is Status.PENDING
        else:
            assert order[before] <= order[after]
            assert before not in FINAL


def test_every_state_is_reached_and_every_unfinished_one_is_left() -> None:
    """No job is stuck by the contract itself."""
    ways = defaultdict(set)
    for before, after in MOVES:
        ways[before].add(after)
    reached, new = set(), {(Status.PENDING, Stage.QUEUED)}
    while new:
        reached |= new
        new = {after for state in new for after in ways[state]} - reached

    assert {status for status, _ in reached} == set(Status)
    assert {stage for _, stage in reached} == set(Stage)
    assert {state for move in MOVES for state in move} <= reached
    assert all(ways[state] for state in reached if state[0] not in FINAL)


# Names on the broker


def test_every_message_has_one_exchange() -> None:
    """And what must arrive has a queue that takes it."""
    assert set(EXCHANGE_OF) == {message.type for message in MESSAGES}
    bound = {(queue.exchange, queue.binding) for queue in QUEUES}
    for message_type, exchange in EXCHANGE_OF.items():
        assert (exchange, message_type) in bound or exchange not in MANDATORY


def test_every_queue_hangs_on_a_declared_exchange() -> None:
    """Also dead-lettering and the alternate exchange lead somewhere."""
    exchanges = {exchange.name for exchange in EXCHANGES}
    bound = {(queue.exchange, queue.binding) for queue in QUEUES}

    assert {queue.exchange for queue in QUEUES} | {UNROUTED} | set(EXCHANGE_OF.values()) == exchanges
    assert len({queue.name for queue in QUEUES}) == len(QUEUES)
    for queue in QUEUES:
        assert queue.arguments["x-queue-type"] == "quorum"
        if "x-dead-letter-exchange" in queue.arguments:
            letter = (queue.arguments["x-dead-letter-exchange"], queue.arguments["x-dead-letter-routing-key"])
            assert letter in bound
            assert queue.arguments["x-overflow"] == "reject-publish"
    assert [exchange.alternate for exchange in EXCHANGES if exchange.name == COMMANDS] == [UNROUTED]


def test_an_envelope_is_addressed_by_the_type() -> None:
    """With the job as correlation id and the trace as header, if there is one."""
    ready = EXAMPLES[1]
    sent = envelope_of(ready, message_type=DumpReady.type, correlation_id=JOB, traceparent="00-a-b-01")
    bare = envelope_of(ready, message_type=DumpReady.type, correlation_id=JOB, traceparent=None, id=BACKUP)

    assert (sent.exchange, sent.routing_key, sent.message_type) == (
        "pgferry.internal",
        "dump.ready.v1",
        "dump.ready.v1",
    )
    assert (sent.correlation_id, sent.headers) == (JOB, {"traceparent": "00-a-b-01"})
    assert DumpReady.model_validate_json(sent.body) == ready
    assert (bare.id, bare.headers) == (BACKUP, {})
    assert sent.id not in {bare.id, JOB}


def test_a_dead_letter_is_the_original_with_reasons() -> None:
    """Bytes and type are as they came; the address is the service's."""
    letter = dead_letter(
        b"\xff", routing_key=dead_key("uploader"), message_type="t", headers={"x-reason": "r"}
    )

    assert (letter.exchange, letter.routing_key) == (DEAD, "dead.uploader")
    assert (letter.body, letter.message_type, letter.headers) == (b"\xff", "t", {"x-reason": "r"})
    assert {EVENTS} & MANDATORY == set()


# Documents made from the contracts


def test_the_committed_documents_are_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    """`./run check` looks, too."""
    assert generate.main(["--check"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_document_that_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Altered, missing, or of a message that is gone: each by its name; writing mends the first two."""
    docs = ["--docs", str(tmp_path)]
    generate.main(docs)
    altered, missing, gone = (
        tmp_path / "messages" / f"{name}.json"
        for name in ("asyncapi", "dump.ready.v1.schema", "dump.ready.v0.schema")
    )
    altered.write_text(altered.read_text().replace("3.0.0", "2.6.0"))
    missing.unlink()
    gone.write_text("{}")

    assert generate.main([*docs, "--check"]) == 1
    named = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert named == [f"docs/messages/{path.name}" for path in (altered, gone, missing)]

    gone.unlink()
    assert generate.main(docs) == 0
    assert generate.main([*docs, "--check"]) == 0


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_schema_names_the_fields_of_its_message(message: BaseModel) -> None:
    """Those that must be there, and all that may."""
    name = f"messages/{message.type}.schema.json"  # type: ignore[attr-defined]
    schema = json.loads(generate.documents()[name])

    fields = type(message).model_fields
    assert set(schema["properties"]) == set(fields)
    assert set(schema["required"]) == {name for name, field in fields.items() if field.is_required()}
    assert schema["$id"] == Path(name).name
    assert "additionalProperties" not in schema


def _objects(node: object) -> Iterator[dict[str, object]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from _objects(child)
    if isinstance(node, list):
        for child in node:
            yield from _objects(child)


def _resolve(document: dict[str, object], reference: str) -> object:
    if reference.startswith("./"):
        return json.loads(generate.documents()[f"messages/{reference[2:]}"])
    node: object = document
    for key in reference.removeprefix("#/").split("/"):
        assert isinstance(node, dict)
        node = node[key]
    return node


def test_the_asyncapi_document_has_the_shape_of_3_0_0() -> None:
    """Its required members, kinds and references, as the specification has them."""
    document = json.loads(generate.documents()["messages/asyncapi.json"])

    assert document["asyncapi"] == "3.0.0"
    assert set(document) == {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    assert {"title", "version"} <= set(document["info"])
    for node in _objects(document):
        if "$ref" in node:
            assert set(node) == {"$ref"}
            assert isinstance(node["$ref"], str)
            assert _resolve(document, node["$ref"])
    for channel in document["channels"].values():
        assert set(channel) <= {"address", "messages", "bindings"} | {
            key for key in channel if key[:2] == "x-"
        }
        binding = channel["bindings"]["amqp"]
        assert binding["is"] in {"queue", "routingKey"}
        assert ("queue" in binding, "exchange" in binding) == (
            binding["is"] == "queue",
            binding["is"] == "routingKey",
        )
        assert len(channel["address"]) <= 255
    for operation in document["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = _resolve(document, operation["channel"]["$ref"])
        assert isinstance(channel, dict)
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")
    for message in document["components"]["messages"].values():
        assert message["headers"]["type"] == "object"


def test_the_asyncapi_document_tells_the_whole_topology() -> None:
    """Every message, exchange and queue is in it, and every service says what it does."""
    document = json.loads(generate.documents()["messages/asyncapi.json"])
    bindings = [channel["bindings"]["amqp"] for channel in document["channels"].values()]
    operations = {(name.split(".")[0], one["action"]) for name, one in document["operations"].items()}

    assert set(EXCHANGE_OF) <= set(document["channels"])
    assert set(EXCHANGE_OF) <= set(document["components"]["messages"])
    assert {one["queue"]["name"] for one in bindings if one["is"] == "queue"} == {
        queue.name for queue in QUEUES
    }
    exchanges = {one["exchange"]["name"] for one in bindings if one["is"] == "routingKey"}
    assert exchanges | {UNROUTED} == {exchange.name for exchange in EXCHANGES}
    assert operations == {
        ("gateway", "send"),
        ("exporter", "receive"),
        ("exporter", "send"),
        ("uploader", "receive"),
        ("uploader", "send"),
    }
