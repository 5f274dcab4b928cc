"""What is sent as a document comes back as it was."""

import os
import time
from collections.abc import Iterator

import pytest
import telegram
from telegram.error import BadRequest, InvalidToken

from sandbox.bot_api.file_name import clean_file_name
from sandbox.bot_api.process import BotApi
from tests.integration.bot_api.clients import OTHER_TOKEN, TOKEN, RawClient, ptb_client


async def test_python_telegram_bot_gets_back_what_it_sent(bot: telegram.Bot, chat_id: int) -> None:
    """A document survives the round trip byte for byte, and its message says what was sent."""
    content = os.urandom(300_001)

    message = await bot.send_document(
        chat_id, content, filename="b7f3c2.p00012", caption="part", disable_content_type_detection=True
    )

    assert message.document is not None
    file = await bot.get_file(message.document)
    assert bytes(await file.download_as_bytearray()) == content
    assert message.document.file_name == "b7f3c2.p00012"
    assert message.document.file_size == file.file_size == len(content)
    assert message.document.file_unique_id == file.file_unique_id
    assert (message.caption, message.chat_id) == ("part", chat_id)
    assert message.sender_chat == message.chat


async def test_plain_http_gets_back_what_it_sent(raw: RawClient, chat_id: int) -> None:
    """The same round trip without a library, boundaries of the multipart body inside the content."""
    content = b"\r\n--" * 50_000 + os.urandom(100_000)

    message = (await raw.send(chat_id, content, name="a.tar.zst")).body["result"]
    file = (await raw.call("getFile", json={"file_id": message["document"]["file_id"]})).body["result"]

    assert file["file_path"].startswith("documents/file_")
    assert file["file_path"].endswith(".zst")
    assert await raw.download(file["file_path"]) == (200, content)
    assert message["chat"] == {"id": chat_id, "title": message["chat"]["title"], "type": "channel"}
    assert abs(message["date"] - time.time()) < 5


async def test_message_ids_grow_by_one_in_each_chat(
    bot: telegram.Bot, raw: RawClient, unused_chats: Iterator[int]
) -> None:
    """Every chat counts for itself, from 1, whoever sends."""
    chats = [next(unused_chats), next(unused_chats)]

    sent = [(await bot.send_document(chat, b"x")).message_id for chat in chats]
    sent += [(await raw.send(chat, b"x", token=OTHER_TOKEN)).body["result"]["message_id"] for chat in chats]

    assert sent == [1, 1, 2, 2]


async def test_a_document_can_be_attached_by_name(bot: telegram.Bot, api: BotApi, chat_id: int) -> None:
    """`attach://name` means the file part with that name."""
    attached = telegram.InputFile(b"attached", filename="a.bin", attach=True)

    await bot.send_document(chat_id, attached)

    assert [message.file_size for message in api.messages(chat_id)] == [len(b"attached")]


async def test_a_document_can_be_sent_again_by_its_file_id(bot: telegram.Bot, chat_id: int) -> None:
    """Each sending has a file_id of its own; equal contents share the file_unique_id."""
    first = await bot.send_document(chat_id, b"content", filename="a.bin")
    assert first.document is not None

    second = await bot.send_document(chat_id, first.document.file_id)

    assert second.document is not None
    assert second.document.file_id != first.document.file_id
    assert second.document.file_unique_id == first.document.file_unique_id
    assert (second.document.file_name, second.document.file_size) == ("a.bin", 7)


async def test_file_ids_and_paths_belong_to_one_bot(
    api: BotApi, bot: telegram.Bot, raw: RawClient, chat_id: int
) -> None:
    """Another bot can use neither, though it sees the same file_unique_id for the same content."""
    mine = await bot.send_document(chat_id, b"content")
    theirs = (await raw.send(chat_id, b"content", token=OTHER_TOKEN)).body["result"]["document"]
    assert mine.document is not None
    path = (await raw.call("getFile", json={"file_id": mine.document.file_id})).body["result"]["file_path"]

    foreign = await raw.call("getFile", token=OTHER_TOKEN, json={"file_id": mine.document.file_id})

    assert theirs["file_unique_id"] == mine.document.file_unique_id
    assert foreign.refusal == (400, 400, "Bad Request: invalid file_id")
    assert (await raw.download(path))[0] == 200
    assert (await raw.download(path, token=OTHER_TOKEN))[0] == 404
    async with ptb_client(api, OTHER_TOKEN) as other_bot:
        with pytest.raises(BadRequest, match="Invalid file_id"):
            await other_bot.get_file(mine.document.file_id)
        with pytest.raises(BadRequest, match="Invalid file_id"):
            await other_bot.send_document(chat_id, mine.document.file_id)


async def test_an_unknown_file_path_is_not_found(bot: telegram.Bot, raw: RawClient) -> None:
    """A download that leads nowhere is a 404 in JSON, which python-telegram-bot calls InvalidToken."""
    gone = telegram.File("id", "unique", file_path=f"{raw.api.base_file_url}{TOKEN}/documents/file_9999.a")
    gone.set_bot(bot)

    status, body = await raw.download("documents/file_9999.a")

    assert (status, body) == (404, b'{"ok": false, "error_code": 404, "description": "Not Found"}')
    with pytest.raises(InvalidToken, match="Not Found"):
        await gone.download_as_bytearray()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("b7f3c2.p00012", "b7f3c2.p00012"),
        ("s" * 70 + "." + "e" * 20, "s" * 64 + "." + "e" * 16),
        ("a<b>c:d&e'f.x", "a b c d e f.x"),
        ("dir/../back\\.hidden.txt", "hidden.txt"),
        (" . dump .sql. ", "dump .sql"),
        ("Ärger-№5_日本.sql", "Ärger- 5_日本.sql"),
        ("e\u0301\U0001f600.t", "e.t"),
        ("???", "file"),
        (".gz", "gz"),
    ],
)
def test_file_names_are_cleaned(sent: str, kept: str) -> None:
    """64 characters of stem, 16 of extension, no signs that a file system could mind."""
    assert clean_file_name(sent) == kept


async def test_the_reply_shows_the_cleaned_name(bot: telegram.Bot, raw: RawClient, chat_id: int) -> None:
    """What was sent as a name isn't what is stored."""
    by_library = await bot.send_document(chat_id, b"x", filename="x" * 70 + ".part?")
    by_hand = await raw.send(chat_id, b"x", name="a:b.c*d")

    assert by_library.document is not None
    assert by_library.document.file_name == "x" * 64 + ".part"
    assert by_hand.body["result"]["document"]["file_name"] == "a b.c d"
