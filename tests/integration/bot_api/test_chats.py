"""What a bot sees of its chats, and what it may pin and delete."""

import pytest
import telegram
from telegram.error import BadRequest

from tests.integration.bot_api.clients import RawClient


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
