"""The Bot API methods: each takes a call whose body was read and returns its result or raises ApiError.

`app` looks a method up in METHODS.  Methods are synchronous, so that a check and the
write after it cannot be separated by another call.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.bot_api import replies
from sandbox.bot_api.errors import bad_request, flood, migrated
from sandbox.bot_api.file_name import clean_file_name
from sandbox.bot_api.limits import Rules, retry_after
from sandbox.bot_api.parameters import Parameters, Upload
from sandbox.bot_api.store import Store, StoredFile, StoredMessage

MAX_DOWNLOAD_BYTES: Final = 20 << 20
"""Largest file that a bot gets back."""
MAX_CAPTION_CHARACTERS: Final = 1024
MAX_TEXT_CHARACTERS: Final = 4096
MAX_UPDATES: Final = 100
UPDATES_SECONDS: Final = 86_400
"""How long an update waits for its bot."""
MAX_DELETED_AT_ONCE: Final = 100
DELETABLE_SECONDS: Final = 2 * 86_400
"""Age at which a bot can no longer delete a message."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`tokens` gives the bot's id of each known token; every bot is an administrator of every chat.

    `local`: as a server of one's own that runs with `--local`, which hands out paths instead of links.
    """

    directory: Path
    tokens: dict[str, int]
    chats: frozenset[int]
    rules: Rules
    local: bool = False


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
    pin = call.store.newest_pin(chat_id)
    return replies.full_chat(chat_id, None if pin is None else call.store.seen_by(call.bot_id, pin))


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
    _keep_to_the_rules(call, chat_id)
    name = document.name
    if isinstance(document, Upload):
        name = clean_file_name(name)
        call.store.adopt(document.path, document.sha256)
    message = call.store.add_document(
        chat_id, call.bot_id, name=name, size=document.size, sha256=document.sha256, caption=caption
    )
    return replies.message(message)


def send_message(call: Call) -> object:
    chat_id = _chat(call)
    text = call.parameters.text("text")
    if not text:
        raise bad_request("message text is empty")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise bad_request("message is too long")
    _keep_to_the_rules(call, chat_id)
    return replies.message(call.store.add_text(chat_id, call.bot_id, text))


def get_file(call: Call) -> object:
    file = _file(call, call.parameters.text("file_id"))
    if call.settings.local:
        return replies.file(file, path=str(call.store.blob(file.sha256)))
    if file.size > MAX_DOWNLOAD_BYTES:
        raise bad_request("file is too big")
    call.store.link(file)
    return replies.file(file, path=file.path)


def get_updates(call: Call) -> object:
    """What other bots posted to the chats of a day, until it is confirmed; never the bot's own posts."""
    return [replies.update(message) for message in updates(call)]


def updates(call: Call) -> list[StoredMessage]:
    offset = call.parameters.integer("offset") or 0
    if offset > 0:
        call.store.state.confirm(call.bot_id, offset - 1)
    since = call.store.state.now() - UPDATES_SECONDS
    limit = min(max(call.parameters.integer("limit") or MAX_UPDATES, 1), MAX_UPDATES)
    seen = call.store.state.seen(call.bot_id)
    return call.store.posts_of_others(call.bot_id, after=seen, since=since, limit=limit)


def log_out(call: Call) -> object:
    call.store.state.log_out(call.bot_id)
    return True


def pin_chat_message(call: Call) -> object:
    call.store.pin(_message(call, "pin"))
    return True


def unpin_chat_message(call: Call) -> object:
    message = _message(call, "unpin")
    call.store.unpin(message)
    return True


def delete_message(call: Call) -> object:
    message = _message(call, "delete")
    if call.store.state.now() >= message.date + DELETABLE_SECONDS:
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
    if any(call.store.state.now() >= message.date + DELETABLE_SECONDS for message in found):
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
    "sendMessage": send_message,
    "getFile": get_file,
    "getUpdates": get_updates,
    "logOut": log_out,
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
    if chat_id is None or not _exists(call, chat_id):
        raise bad_request("chat not found")
    new_chat_id = call.store.state.upgraded(chat_id)
    if new_chat_id is not None:
        raise migrated(new_chat_id)
    return chat_id


def _exists(call: Call, chat_id: int) -> bool:
    return chat_id in call.settings.chats or call.store.state.is_supergroup(chat_id)


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
    if call.settings.local and file_id.startswith("file://"):
        return _copied(call, Path(file_id.removeprefix("file://")))
    return _file(call, file_id)


def _copied(call: Call, path: Path) -> Upload:
    """A file of the server's own machine."""
    if not path.is_absolute() or not path.is_file():
        raise bad_request("wrong file path: the file must exist and be named in full")
    with tempfile.NamedTemporaryFile(dir=call.store.incoming, delete=False) as copy:
        shutil.copyfile(path, copy.name)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Upload(Path(copy.name), path.name, path.stat().st_size, sha256)


def _file(call: Call, file_id: str) -> StoredFile:
    file = call.store.file(call.bot_id, file_id)
    if file is None:
        raise bad_request("invalid file_id")
    return file


def _keep_to_the_rules(call: Call, chat_id: int) -> None:
    """So many messages of a bot in a chat, and so many in all."""
    rules = call.settings.rules
    _keep_to(call, chat_id, messages=rules.messages, window_seconds=rules.window_seconds)
    _keep_to(call, None, messages=rules.bot_messages, window_seconds=rules.bot_window_seconds)


def _keep_to(call: Call, chat_id: int | None, *, messages: int, window_seconds: float) -> None:
    if messages <= 0 or window_seconds <= 0:
        return
    nth_newest = call.store.nth_newest_sending(call.bot_id, chat_id, n=messages)
    seconds = retry_after(nth_newest, window_seconds, call.store.state.now())
    if seconds is not None:
        raise flood(seconds)
