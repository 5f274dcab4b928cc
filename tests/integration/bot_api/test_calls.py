"""How a call is read: tokens, methods, parameters."""

import aiohttp
import pytest
import telegram
from telegram.error import EndPointNotFound, InvalidToken

from tests.integration.bot_api.clients import RawClient, ptb_client


@pytest.mark.parametrize(
    ("token", "description"),
    [
        ("no-colon", "Unauthorized: invalid token specified"),
        ("0123:secret", "Unauthorized: invalid token specified"),
        ("bot:secret", "Unauthorized: invalid token specified"),
        ("777:unknown", "Unauthorized"),
    ],
)
async def test_a_wrong_token_is_unauthorized(raw: RawClient, token: str, description: str) -> None:
    """Malformed and unknown tokens are told apart, for calls and for downloads."""
    assert (await raw.call("getMe", token=token)).refusal == (401, 401, description)
    assert (await raw.download("documents/file_1.bin", token=token))[0] == 401

    with pytest.raises(InvalidToken):
        async with ptb_client(raw.api, token):
            pass


async def test_an_unknown_method_is_not_found(bot: telegram.Bot, raw: RawClient) -> None:
    """And so is a path that is no call at all."""
    with pytest.raises(EndPointNotFound):
        await bot.do_api_request("flyToTheMoon")

    assert (await raw.call("flyToTheMoon")).refusal == (404, 404, "Not Found: method not found")
    async with raw.session.get(f"{raw.api.url}/elsewhere") as reply:
        assert (await reply.json())["description"] == "Not Found"


@pytest.mark.parametrize("carrier", ["params", "data", "json", "multipart"])
@pytest.mark.parametrize("method", ["getChat", "getchat", "GETCHAT"])
async def test_parameters_come_in_any_carrier(
    raw: RawClient, chat_id: int, carrier: str, method: str
) -> None:
    """Query, urlencoded, JSON and multipart mean the same, and so do all spellings of a method."""
    if carrier == "multipart":
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("chat_id", str(chat_id))
        answer = await raw.call(method, data=form)
    elif carrier == "params":
        answer = await raw.call(method, verb="GET", params={"chat_id": chat_id})
    elif carrier == "data":
        answer = await raw.call(method, data={"chat_id": chat_id})
    else:
        answer = await raw.call(method, json={"chat_id": chat_id})

    assert answer.body["result"]["id"] == chat_id


@pytest.mark.parametrize(
    ("content_type", "body"), [("application/json", b"[1]"), ("multipart/form-data; boundary=cut", b"--cu")]
)
async def test_a_body_that_cannot_be_parsed_is_a_bad_request(
    raw: RawClient, content_type: str, body: bytes
) -> None:
    """The answer is the service's error shape, not a stack trace."""
    answer = await raw.call("getMe", headers={"Content-Type": content_type}, data=body)

    assert answer.refusal[:2] == (400, 400)


async def test_answers_are_counted_by_method_and_status(raw: RawClient) -> None:
    """Whatever the spelling; downloads count as "file"."""
    before = raw.api.calls()

    await raw.call("getMe")
    await raw.call("GETME")
    await raw.call("getMe", token="777:unknown")
    await raw.call("flyToTheMoon")
    await raw.download("documents/file_9999.a")

    after = raw.api.calls()
    expected = {("getMe", 200): 2, ("getMe", 401): 1, ("unknown", 404): 1, ("file", 404): 1}
    assert {
        (method, status): after[method][status] - before.get(method, {}).get(status, 0)
        for method, status in expected
    } == expected
