"""The Bot API methods: each takes a call whose body was read and returns its result or raises ApiError.

`app` looks a method up in METHODS.  Methods are synchronous, so that a check and the
write after it cannot be separated by another call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.bot_api import replies
from sandbox.bot_api.errors import bad_request, flood
from sandbox.bot_api.file_name import clean_file_name
from sandbox.bot_api.limits import MessageRule
from sandbox.bot_api.parameters import Parameters, Upload
from sandbox.bot_api.store import Store, StoredFile, StoredMessage

MAX_DOWNLOAD_BYTES: Final = 20 << 20
"""Largest file that a bot gets back."""
MAX_CAPTION_CHARACTERS: Final = 1024
MAX_DELETED_AT_ONCE: Final = 100
DELETABLE_SECONDS: Final = 2 * 86_400
"""Age at which a bot can no longer delete a message."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`tokens` gives the bot's id of each known token; every bot is an administrator of every chat."""

    directory: Path
    tokens: dict[str, int]
    chats: frozenset[int]
    rule: MessageRule


@dataclass(frozen=True, slots=True)
class Call:
    settings: Settings
    store: Store
    bot_id: int
    parameters: Parameters


def get_me(call: Call) -> object:
    return replies.user(call.bot_id)


def get_chat(call: Call) -> object:
    chat_id = _chat(call)
    return replies.full_chat(chat_id, call.store.newest_pin(chat_id))


def get_chat_member(call: Call) -> object:
    _chat(call)
    user_id = call.parameters.integer("user_id")
    if user_id is None:
        raise bad_request("invalid user_id specified")
    if user_id not in call.settings.tokens.values():
        raise bad_request("user not found")
    return replies.administrator(user_id)


def send_document(call: Call) -> object:
    """Store a document; the flood rule comes last, since the service applies it to valid posts only."""
    document = _document(call)
    chat_id = _chat(call)
    caption = call.parameters.text("caption")
    if document.size == 0:
        raise bad_request("file must be non-empty")
    if len(caption) > MAX_CAPTION_CHARACTERS:
        raise bad_request("message caption is too long")
    _keep_to_the_rule(call, chat_id)
    name = document.name
    if isinstance(document, Upload):
        name = clean_file_name(name)
        call.store.adopt(document.path, document.sha256)
    message = call.store.add_message(
        chat_id, call.bot_id, name=name, size=document.size, sha256=document.sha256, caption=caption
    )
    return replies.message(message)


def get_file(call: Call) -> object:
    file = _file(call, call.parameters.text("file_id"))
    if file.size > MAX_DOWNLOAD_BYTES:
        raise bad_request("file is too big")
    return replies.file(file)


def pin_chat_message(call: Call) -> object:
    call.store.pin(_message(call, "pin"))
    return True


def unpin_chat_message(call: Call) -> object:
    message = _message(call, "unpin")
    call.store.unpin(message)
    return True


def delete_message(call: Call) -> object:
    message = _message(call, "delete")
    if call.store.now() >= message.date + DELETABLE_SECONDS:
        raise bad_request("message can't be deleted")
    call.store.delete(message)
    return True


def delete_messages(call: Call) -> object:
    """All or none; those that are not there are passed over."""
    chat_id = _chat(call)
    numbers = call.parameters.json("message_ids")
    if not isinstance(numbers, list) or not 0 < len(numbers) <= MAX_DELETED_AT_ONCE:
        raise bad_request("message identifiers are not specified")
    found = [message for number in numbers if (message := call.store.message(chat_id, int(number)))]
    if any(call.store.now() >= message.date + DELETABLE_SECONDS for message in found):
        raise bad_request("message can't be deleted")
    for message in found:
        call.store.delete(message)
    return True


def edit_message_media(call: Call) -> object:
    """A bot may replace the document of its own post at any age."""
    message = _message(call, "edit")
    if message.bot_id != call.bot_id:
        raise bad_request("message can't be edited")
    media = call.parameters.json("media")
    if not isinstance(media, dict) or media.get("type") != "document":
        raise bad_request("can't parse media")
    upload = call.parameters.attached(str(media.get("media", "")))
    if upload is None:
        raise bad_request("there is no document in the request")
    call.store.adopt(upload.path, upload.sha256)
    edited = call.store.replace_document(
        message,
        name=clean_file_name(upload.name),
        size=upload.size,
        sha256=upload.sha256,
        caption=str(media.get("caption", "")),
    )
    return replies.message(edited)


_BY_NAME: Final[dict[str, Callable[[Call], object]]] = {
    "getMe": get_me,
    "getChat": get_chat,
    "getChatMember": get_chat_member,
    "sendDocument": send_document,
    "getFile": get_file,
    "pinChatMessage": pin_chat_message,
    "unpinChatMessage": unpin_chat_message,
    "deleteMessage": delete_message,
    "deleteMessages": delete_messages,
    "editMessageMedia": edit_message_media,
}


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    answer: Callable[[Call], object]


METHODS: Final = {name.lower(): Method(name, answer) for name, answer in _BY_NAME.items()}
"""Methods by lower-case name."""


def _chat(call: Call) -> int:
    if not call.parameters.text("chat_id"):
        raise bad_request("chat_id is empty")
    chat_id = call.parameters.integer("chat_id")
    if chat_id is None or chat_id not in call.settings.chats:
        raise bad_request("chat not found")
    return chat_id


def _message(call: Call, purpose: str) -> StoredMessage:
    chat_id = _chat(call)
    message_id = call.parameters.integer("message_id")
    if message_id is None or message_id <= 0:
        raise bad_request("message identifier is not specified")
    message = call.store.message(chat_id, message_id)
    if message is None:
        raise bad_request(f"message to {purpose} not found")
    return message


def _document(call: Call) -> Upload | StoredFile:
    if upload := call.parameters.file("document"):
        return upload
    file_id = call.parameters.text("document")
    if not file_id or file_id.startswith("attach://"):
        raise bad_request("there is no document in the request")
    return _file(call, file_id)


def _file(call: Call, file_id: str) -> StoredFile:
    file = call.store.file(call.bot_id, file_id)
    if file is None:
        raise bad_request("invalid file_id")
    return file


def _keep_to_the_rule(call: Call, chat_id: int) -> None:
    rule = call.settings.rule
    if not rule.applies:
        return
    oldest = call.store.nth_newest_sending(call.bot_id, chat_id, n=rule.messages)
    retry_after = rule.retry_after(oldest, call.store.now())
    if retry_after is not None:
        raise flood(retry_after)
