"""What a bot sees of its chats, and what it may pin and delete."""

import json

import aiohttp
import pytest
import telegram
from telegram.error import BadRequest

from tests.integration.bot_api.clients import OTHER_TOKEN, RawClient, ptb_client


async def test_the_bot_is_an_administrator_of_its_chats(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """getMe, getChat and getChatMember have all that python-telegram-bot insists on."""
    chat = await bot.get_chat(chat_id)
    member = await bot.get_chat_member(chat_id, bot.id)
    me = (await raw.call("getMe", verb="GET")).body["result"]

    assert (chat.id, chat.type, chat.pinned_message) == (chat_id, "channel", None)
    assert isinstance(member, telegram.ChatMemberAdministrator)
    assert (member.can_post_messages, member.can_delete_messages, member.can_edit_messages) == (True,) * 3
    assert me["id"] == bot.id == 123456
    stranger = await raw.call("getChatMember", json={"chat_id": chat_id, "user_id": 1})
    assert stranger.refusal == (400, 400, "Bad Request: user not found")


async def test_other_chats_are_not_found(bot: telegram.Bot, raw: RawClient) -> None:
    """Only configured chats exist."""
    with pytest.raises(BadRequest, match="Chat not found"):
        await bot.send_document(-1009, b"x")

    assert (await raw.send(-1009, b"x")).refusal == (400, 400, "Bad Request: chat not found")
    assert (await raw.call("getChat")).refusal == (400, 400, "Bad Request: chat_id is empty")


async def test_a_chat_shows_the_pin_that_was_posted_last(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """The order of pinning doesn't matter; a deleted message is no pin."""
    first, second, _ = [(await bot.send_document(chat_id, b"x")).message_id for _ in range(3)]

    await bot.pin_chat_message(chat_id, second, disable_notification=True)
    await raw.call("pinChatMessage", json={"chat_id": chat_id, "message_id": first})
    by_library = (await bot.get_chat(chat_id)).pinned_message
    by_hand = (await raw.call("getChat", json={"chat_id": chat_id})).body["result"]["pinned_message"]
    await bot.delete_message(chat_id, second)
    after_deletion = (await bot.get_chat(chat_id)).pinned_message

    assert by_library is not None
    assert by_library.document is not None
    assert by_library.message_id == by_hand["message_id"] == second
    assert after_deletion is not None
    assert after_deletion.message_id == first
    assert [message.pinned for message in raw.api.messages(chat_id)] == [True, True, False]


async def test_pinning_needs_a_message(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """A message that isn't there cannot be pinned."""
    with pytest.raises(BadRequest, match="Message to pin not found"):
        await bot.pin_chat_message(chat_id, 5)

    unnamed = await raw.call("pinChatMessage", json={"chat_id": chat_id})
    assert unnamed.refusal == (400, 400, "Bad Request: message identifier is not specified")


async def test_a_deleted_message_is_gone_but_its_file_stays(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """A second deletion finds nothing; the file_id keeps working."""
    message = await bot.send_document(chat_id, b"content")
    assert message.document is not None

    assert await bot.delete_message(chat_id, message.message_id)

    with pytest.raises(BadRequest, match="Message to delete not found"):
        await bot.delete_message(chat_id, message.message_id)
    again = await raw.call("deleteMessage", json={"chat_id": chat_id, "message_id": message.message_id})
    assert again.refusal == (400, 400, "Bad Request: message to delete not found")
    assert await (await bot.get_file(message.document)).download_as_bytearray() == b"content"
    assert [stored.deleted for stored in raw.api.messages(chat_id)] == [True]


async def test_a_message_of_48_hours_cannot_be_deleted(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """The server's clock decides; just before, deletion still works."""
    young, old = [(await bot.send_document(chat_id, b"x")).message_id for _ in range(2)]

    raw.api.advance_clock(2 * 86_400 - 30)
    deleted = await raw.call("deleteMessage", json={"chat_id": chat_id, "message_id": young})
    raw.api.advance_clock(30)
    refused = await raw.call("deleteMessage", json={"chat_id": chat_id, "message_id": old})

    assert deleted.body == {"ok": True, "result": True}
    assert refused.refusal == (400, 400, "Bad Request: message can't be deleted")
    with pytest.raises(BadRequest, match="Message can't be deleted"):
        await bot.delete_message(chat_id, old)


async def test_several_are_deleted_at_once_and_missing_ones_passed_over(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """All or none: one that is too old keeps the others."""
    old, *young = [(await bot.send_document(chat_id, b"x")).message_id for _ in range(5)]
    raw.api.advance_clock(2 * 86_400)
    new = (await bot.send_document(chat_id, b"x")).message_id

    with pytest.raises(BadRequest, match="Message can't be deleted"):
        await bot.delete_messages(chat_id, [new, old])
    assert await bot.delete_messages(chat_id, [new, 999])
    refused = await raw.call("deleteMessages", json={"chat_id": chat_id, "message_ids": young})
    none = await raw.call("deleteMessages", json={"chat_id": chat_id, "message_ids": []})
    missing = await raw.call("deleteMessages", json={"chat_id": chat_id, "message_ids": [999]})

    assert refused.refusal == (400, 400, "Bad Request: message can't be deleted")
    assert none.refusal == (400, 400, "Bad Request: message identifiers are not specified")
    assert missing.body == {"ok": True, "result": True}
    assert [stored.message_id for stored in raw.api.messages(chat_id) if stored.deleted] == [new]


async def test_a_bot_replaces_its_own_document_at_any_age(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """Under the same message; what it held before keeps its file_id. Another bot may not."""
    sent = await bot.send_document(chat_id, b"content")
    assert sent.document is not None
    raw.api.advance_clock(365 * 86_400)

    tombstone = telegram.InputMediaDocument(b"removed", filename="removed.txt", caption="gone")
    edited = await bot.edit_message_media(tombstone, chat_id, sent.message_id)
    form = aiohttp.FormData({"chat_id": str(chat_id), "message_id": str(sent.message_id)})
    form.add_field("media", json.dumps({"type": "document", "media": "attach://file"}))
    form.add_field("file", b"again", filename="again.txt")
    again = (await raw.call("editMessageMedia", data=form)).body["result"]

    assert isinstance(edited, telegram.Message)
    assert edited.document is not None
    assert (edited.message_id, edited.document.file_name, edited.caption) == (1, "removed.txt", "gone")
    assert (again["message_id"], again["document"]["file_name"]) == (1, "again.txt")
    assert await (await bot.get_file(sent.document)).download_as_bytearray() == b"content"
    async with ptb_client(raw.api, OTHER_TOKEN) as other:
        with pytest.raises(BadRequest, match="Message can't be edited"):
            await other.edit_message_media(tombstone, chat_id, sent.message_id)


async def test_an_unpinned_message_gives_way_to_the_pin_before(
    bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """One that isn't there cannot be unpinned."""
    first, second = [(await bot.send_document(chat_id, b"x")).message_id for _ in range(2)]
    for message_id in (first, second):
        await bot.pin_chat_message(chat_id, message_id)

    await bot.unpin_chat_message(chat_id, second)
    shown = (await bot.get_chat(chat_id)).pinned_message
    await raw.call("unpinChatMessage", json={"chat_id": chat_id, "message_id": first})
    missing = await raw.call("unpinChatMessage", json={"chat_id": chat_id, "message_id": 99})

    assert shown is not None
    assert shown.message_id == first
    assert (await bot.get_chat(chat_id)).pinned_message is None
    assert missing.refusal == (400, 400, "Bad Request: message to unpin not found")
