"""`pgferry doctor telegram`: what it tries, what it says of what fails, and that nothing of it stays."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.bot_api.limits import Rules
from sandbox.bot_api.process import BotApi
from sandbox.bot_api.store import StoredMessage
from tests.conftest import BOT_TOKEN
from tests.e2e.commands import Said, pgferry

CHAT_ID = -1001234567890


@pytest.fixture
def bot_api(tmp_path: Path) -> Iterator[BotApi]:
    with BotApi(tmp_path, tokens=[BOT_TOKEN], chats=[CHAT_ID], rules=Rules.none()) as api:
        yield api


async def examined(api: BotApi, *options: str, chat_id: int = CHAT_ID) -> Said:
    settings = {
        "TELEGRAM_API_URL": api.url,
        "TELEGRAM_BOT_TOKEN": BOT_TOKEN,
        "TELEGRAM_CHAT_ID": str(chat_id),
        "PGFERRY_SIGNING_KEY": "k" * 40,
    }
    return await pgferry("doctor", "telegram", *options, **settings)


def there(api: BotApi) -> list[StoredMessage]:
    return [message for message in api.messages(CHAT_ID) if not message.deleted]


def problems(said: Said) -> dict[str, str]:
    """What is wrong, by check."""
    return {check["check"]: check["problem"] for check in said.json() if check["problem"]}


async def test_each_right_of_the_bot_is_tried(bot_api: BotApi) -> None:
    """What it posted is gone again."""
    said = await examined(bot_api)

    assert said.code == 0
    bot, chat, *results = [line.split(maxsplit=2) for line in said.out.splitlines()[1:]]
    assert bot == ["-", "bot", "ok: @sandbox_7000001_bot (7000001)"]
    assert chat == [str(CHAT_ID), "chat", f"ok: channel Sandbox {CHAT_ID}"]
    names = ["post", "fetch", "edit", "pin", "unpin", "delete", "clock"]
    assert results == [[str(CHAT_ID), name, "ok"] for name in names]
    assert there(bot_api) == []


async def test_it_says_what_is_lost_without_a_right(bot_api: BotApi) -> None:
    """The other checks are made all the same, and it ends with 1."""
    bot_api.refuse("pinChatMessage", times=1, status=400)

    said = await examined(bot_api, "--json")

    assert said.code == 1
    assert list(problems(said)) == ["pin"]
    assert "The catalogue is not found without the database" in problems(said)["pin"]


async def test_it_ends_where_the_bot_may_not_post(bot_api: BotApi) -> None:
    """Nothing else can be tried then."""
    said = await examined(bot_api, "--json", chat_id=-5)

    assert said.code == 1
    assert [check["check"] for check in said.json()] == ["bot", "chat", "post"]


async def test_it_says_where_a_group_has_gone(bot_api: BotApi) -> None:
    """With the id to set."""
    bot_api.migrate(CHAT_ID, -1009999)

    said = await examined(bot_api, "--json")

    assert said.code == 1
    assert "set TELEGRAM_CHAT_ID to -1009999" in problems(said)["post"]


async def test_nothing_stays_when_it_is_told_to_wait(bot_api: BotApi) -> None:
    """The step that was refused is told as such, and the document is unpinned and deleted all the same."""
    bot_api.flood("unpinChatMessage", times=1, retry_after=60)

    said = await examined(bot_api, "--json")

    assert said.code == 1
    assert list(problems(said)) == ["unpin"]
    assert "asks to wait 60 s" in problems(said)["unpin"]
    assert there(bot_api) == []


async def test_the_clocks_are_compared(bot_api: BotApi) -> None:
    """By what Telegram says of the time of a post."""
    bot_api.advance_clock(600)

    said = await examined(bot_api, "--json")

    assert said.code == 1
    assert list(problems(said)) == ["clock"]
    assert re.match(r"This machine's clock is (59|60)\d s behind Telegram's\. .*NTP", problems(said)["clock"])
