"""The JSON shapes of answers: the envelope around them and the objects inside.

`app` wraps, `methods` fills.
"""

from typing import Final

from aiohttp import web

from sandbox.bot_api.errors import ApiError, Shape
from sandbox.bot_api.store import StoredFile, StoredMessage, unique_id

_RIGHTS_OF_A_BOT: Final = {
    "can_be_edited": False,
    "is_anonymous": False,
    "can_manage_chat": True,
    "can_delete_messages": True,
    "can_manage_video_chats": False,
    "can_restrict_members": False,
    "can_promote_members": False,
    "can_change_info": False,
    "can_invite_users": False,
    "can_post_stories": False,
    "can_edit_stories": False,
    "can_delete_stories": False,
    "can_post_messages": True,
    "can_edit_messages": True,
}
_REQUIRED_OF_A_FULL_CHAT: Final = {
    "accent_color_id": 0,
    "max_reaction_count": 11,
    "accepted_gift_types": {
        "unlimited_gifts": False,
        "limited_gifts": False,
        "unique_gifts": False,
        "premium_subscription": False,
        "gifts_from_channels": False,
    },
}


def success(result: object) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def failure(error: ApiError) -> web.Response:
    """As the Bot API says it, as a proxy in front of it does, or without a word."""
    match error.shape:
        case Shape.PAGE:
            return _page(f"{error.code} {error.description}", error.code)
        case Shape.EMPTY:
            return web.Response(status=error.code)
    body: dict[str, object] = {"ok": False, "error_code": error.code, "description": error.description}
    headers = {}
    if error.parameters:
        body["parameters"] = dict(error.parameters)
    if "retry_after" in error.parameters:
        headers["Retry-After"] = str(error.parameters["retry_after"])
    return web.json_response(body, status=error.code, headers=headers)


def _page(title: str, status: int) -> web.Response:
    text = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx/1.18.0</center>\r\n</body>\r\n</html>\r\n"
    )
    return web.Response(text=text, status=status, content_type="text/html")


def user(bot_id: int) -> dict[str, object]:
    return {"id": bot_id, "is_bot": True, "first_name": "Sandbox", "username": f"sandbox_{bot_id}_bot"}


def chat(chat_id: int) -> dict[str, object]:
    return {"id": chat_id, "title": f"Sandbox {chat_id}", "type": "channel"}


def full_chat(chat_id: int, pinned: StoredMessage | None) -> dict[str, object]:
    """The chat with everything that python-telegram-bot insists on."""
    shown = {} if pinned is None else {"pinned_message": message(pinned)}
    return {**chat(chat_id), **_REQUIRED_OF_A_FULL_CHAT, **shown}


def administrator(bot_id: int) -> dict[str, object]:
    return {"status": "administrator", "user": user(bot_id), **_RIGHTS_OF_A_BOT}


def message(stored: StoredMessage) -> dict[str, object]:
    """A channel post with its text or its document."""
    return {
        "message_id": stored.message_id,
        "sender_chat": chat(stored.chat_id),
        "chat": chat(stored.chat_id),
        "date": stored.date,
        **({"text": stored.text} if stored.text else {"document": _document(stored)}),
        **({"caption": stored.caption} if stored.caption else {}),
    }


def _document(stored: StoredMessage) -> dict[str, object]:
    return {
        "file_name": stored.file_name,
        "mime_type": "application/octet-stream",
        "file_id": stored.file_id,
        "file_unique_id": unique_id(stored.sha256),
        "file_size": stored.file_size,
    }


def as_music(result: object) -> object:
    """The post as the service shows it when it has taken the document for a piece of music."""
    match result:
        case {"document": dict(document), **rest}:
            return {**rest, "audio": {**document, "duration": 1}}
    return result


def update(stored: StoredMessage) -> dict[str, object]:
    return {"update_id": stored.number, "channel_post": message(stored)}


def file(stored: StoredFile, *, path: str) -> dict[str, object]:
    return {
        "file_id": stored.file_id,
        "file_unique_id": unique_id(stored.sha256),
        "file_size": stored.size,
        "file_path": path,
    }
