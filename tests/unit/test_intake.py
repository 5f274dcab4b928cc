"""What the exporter takes for a command, and which request it then is."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from services.exporter.intake import read_command, request_id_of
from shared.contracts.envelope import Delivery
from shared.contracts.errors import Unreadable
from shared.contracts.job import Compression, Format, Priority


def delivery(
    body: bytes = b'{"project_id": "acme"}',
    *,
    message_id: str | None = None,
    message_type: str | None = None,
    app_id: str | None = None,
) -> Delivery:
    return Delivery(
        body=body,
        message_id=message_id,
        message_type=message_type,
        app_id=app_id,
        exchange="pgferry.commands",
        routing_key="export.requested.v1",
        content_type=None,
        headers={},
    )


def test_a_project_alone_is_a_command() -> None:
    """Everything else has a default; a field of a later version is ignored."""
    command = read_command(delivery(b'{"project_id": "acme", "colour": "blue"}'))

    assert command.project_id == "acme"
    assert (command.format, command.compression, command.priority) == (
        Format.SQL,
        Compression.ZSTD,
        Priority.NORMAL,
    )


@pytest.mark.parametrize("message_type", [None, "", "export.requested.v1"])
def test_no_type_means_the_first_version(message_type: str | None) -> None:
    """A platform service need not know about types."""
    assert read_command(delivery(message_type=message_type)).project_id == "acme"


@pytest.mark.parametrize("message_type", ["export.requested.v2", "EXPORT.REQUESTED.V1", "dump.ready.v1"])
def test_another_type_is_not_guessed(message_type: str) -> None:
    """A later version may mean something else by the same fields."""
    with pytest.raises(Unreadable, match=r"reads export\.requested\.v1, not") as caught:
        read_command(delivery(message_type=message_type))

    assert caught.value.reason == "unknown_type"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"acme",
        b'{"project_id": "acme"',
        b"{'project_id': 'acme'}",
        b'{"project_id": "ac\xff"}',
        b'{"project_id": "acme"} {}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_json_is_unreadable(body: bytes) -> None:
    """Empty, cut, of another encoding, too deep."""
    with pytest.raises(Unreadable, match=r"The body is not JSON\.") as caught:
        read_command(delivery(body))

    assert caught.value.reason == "not_json"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"null", "the message: Input should be an object"),
        (b'["acme"]', "the message: Input should be an object"),
        (b'"acme"', "the message: Input should be an object"),
        (b"{}", "project_id: Field required"),
        (b'{"project": "acme"}', "project_id: Field required"),
        (b'{"project_id": null}', "project_id: Input should be a valid string"),
        (b'{"project_id": 7}', "project_id: Input should be a valid string"),
        (b'{"project_id": ""}', "project_id: String should match pattern '^[A-Za-z0-9_-]{1,64}$'"),
        (b'{"project_id": "a.b"}', "project_id: String should match pattern '^[A-Za-z0-9_-]{1,64}$'"),
        (b'{"project_id": "acme\\n"}', "project_id: String should match pattern '^[A-Za-z0-9_-]{1,64}$'"),
        (b'{"project_id": "acme", "format": "zip"}', "format: Input should be 'sql' or 'tar'"),
        (
            b'{"project_id": "acme", "compression": "rar", "expires_in_days": "7"}',
            "compression: Input should be 'zstd', 'gzip' or 'none'; "
            "expires_in_days: Input should be a valid integer",
        ),
        (
            b'{"project_id": "acme", "storage_path": "../up"}',
            "storage_path: Value error, must not contain empty segments, '.' or '..'",
        ),
    ],
)
def test_wrong_fields_are_named(body: bytes, sentence: str) -> None:
    """All at once; what was sent is not repeated."""
    with pytest.raises(Unreadable) as caught:
        read_command(delivery(body))

    assert caught.value.reason == "invalid_message"
    assert str(caught.value) == sentence


def test_a_message_id_that_is_a_uuid_is_the_request_id() -> None:
    """Whoever published it: the gateway's own row is found by it."""
    request = uuid4()

    assert request_id_of(delivery(message_id=str(request))) == request
    assert request_id_of(delivery(message_id=str(request).upper(), app_id="billing")) == request


def test_other_text_gives_the_same_request_each_time() -> None:
    """Of one publisher: two services may both count from 1. The ids survive a restart and an upgrade."""
    ids = [
        request_id_of(delivery(message_id=text, app_id=app))
        for text, app in [("1", "billing"), ("1", "billing"), ("1", "crm"), ("1", None), ("2", "billing")]
    ]

    assert ids[0] == ids[1] == UUID("55ba805c-dacd-5574-a9ef-d83fe4f764eb")
    assert len(set(ids)) == 4


def test_the_publisher_and_its_id_do_not_run_together() -> None:
    """`a` + `bc` is not `ab` + `c`."""
    first = request_id_of(delivery(message_id="bc", app_id="a"))
    second = request_id_of(delivery(message_id="c", app_id="ab"))

    assert first != second


@pytest.mark.parametrize("message_id", [None, ""])
def test_without_a_message_id_each_delivery_is_a_request(message_id: str | None) -> None:
    """Nothing tells a redelivery from a second wish."""
    assert request_id_of(delivery(message_id=message_id)) != request_id_of(delivery(message_id=message_id))


def test_too_long_a_message_id_is_unreadable() -> None:
    """128 characters are the most."""
    request_id_of(delivery(message_id="x" * 128))

    with pytest.raises(Unreadable, match="at most 128 characters") as caught:
        request_id_of(delivery(message_id="x" * 129))

    assert caught.value.reason == "message_id_too_long"
