"""What bots learn of each other's posts, and that they learn nothing of their own."""

import asyncio

import pytest
import telegram
from telegram.error import Conflict

from tests.integration.bot_api.clients import OTHER_TOKEN, RawClient, ptb_client, until

DAY = 86_400


async def test_a_bot_never_sees_its_own_posts(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """Another bot does, with a file_id of its own that it can use."""
    sent = await bot.send_document(chat_id, b"content", filename="a.bin")
    assert sent.document is not None

    async with ptb_client(raw.api, OTHER_TOKEN) as other:
        [seen] = [
            post
            for update in await other.get_updates()
            if (post := update.channel_post) and post.chat_id == chat_id
        ]
        assert seen.document is not None
        content = await (await other.get_file(seen.document)).download_as_bytearray()
    own = (await raw.call("getUpdates")).body["result"]
    theirs = (await raw.call("getUpdates", token=OTHER_TOKEN)).body["result"]

    assert content == b"content"
    assert seen.document.file_id != sent.document.file_id
    assert seen.document.file_unique_id == sent.document.file_unique_id
    assert [update for update in own if update["channel_post"]["chat"]["id"] == chat_id] == []
    assert theirs[-1]["channel_post"]["document"]["file_id"] == seen.document.file_id


async def test_a_confirmed_update_comes_no_more(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """An offset confirms all before it, for the bot that names it."""
    for content in (b"first", b"second"):
        await bot.send_document(chat_id, content)
    newest = (await raw.call("getUpdates", token=OTHER_TOKEN)).body["result"][-1]["update_id"]

    by_offset = await raw.call("getUpdates", token=OTHER_TOKEN, json={"offset": newest})
    async with ptb_client(raw.api, OTHER_TOKEN) as other:
        by_library = await other.get_updates(offset=newest + 1)
    again = await raw.call("getUpdates", token=OTHER_TOKEN)

    assert [update["update_id"] for update in by_offset.body["result"]] == [newest]
    assert (by_library, again.body["result"]) == ((), [])


async def test_updates_are_kept_for_a_day(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """By the server's clock."""
    await bot.send_document(chat_id, b"old")
    raw.api.advance_clock(DAY)
    await bot.send_document(chat_id, b"young")

    async with ptb_client(raw.api, OTHER_TOKEN) as other:
        by_library = [update.channel_post for update in await other.get_updates()]
    plainly = (await raw.call("getUpdates", token=OTHER_TOKEN)).body["result"]

    assert [post.document.file_size for post in by_library if post and post.document] == [len(b"young")]
    assert [update["channel_post"]["document"]["file_size"] for update in plainly] == [len(b"young")]


@pytest.mark.parametrize("client", ["library", "plain"])
async def test_a_second_poll_ends_the_first(
    bot: telegram.Bot, raw: RawClient, chat_id: int, client: str
) -> None:
    """With a conflict; the second gets what is posted while it waits."""
    async with ptb_client(raw.api, OTHER_TOKEN) as other:
        await _confirm_all(other)
        first = asyncio.ensure_future(_conflict(other) if client == "library" else _conflict_plainly(raw))
        await until(lambda: raw.api.held("getUpdates") == 1)
        second = asyncio.ensure_future(raw.call("getUpdates", token=OTHER_TOKEN, json={"timeout": 30}))
        words = await first
        sent = await bot.send_document(chat_id, b"news")
        [update] = (await second).body["result"]

    assert "terminated by other getupdates request" in words.lower()
    assert update["channel_post"]["message_id"] == sent.message_id


async def _confirm_all(bot: telegram.Bot) -> None:
    updates = await bot.get_updates()
    if updates:
        await bot.get_updates(offset=updates[-1].update_id + 1)


async def _conflict(bot: telegram.Bot) -> str:
    with pytest.raises(Conflict) as raised:
        await bot.get_updates(timeout=30)
    return str(raised.value)


async def _conflict_plainly(raw: RawClient) -> str:
    answer = await raw.call("getUpdates", token=OTHER_TOKEN, json={"timeout": 30})
    assert answer.refusal[:2] == (409, 409)
    return answer.refusal[2]
