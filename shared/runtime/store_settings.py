"""What whoever reads or writes the chat must be told: the bot, and the keys of its manifests.

The uploader and the commands share them.
"""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from shared.runtime.settings import Separated, Settings

MIN_KEY_CHARACTERS = 32


class StoreSettings(Settings):
    bot_token: SecretStr = Field(alias="TELEGRAM_BOT_TOKEN", min_length=1)
    """Of @BotFather; nothing starts without it."""

    telegram_api_url: str = Field(
        default="https://api.telegram.org", alias="TELEGRAM_API_URL", pattern=r"^https?://"
    )
    """Another one for a Bot API server of your own."""

    answer_seconds: float = Field(default=300, gt=0, le=1800, alias="PGFERRY_TELEGRAM_SECONDS")
    """How long Telegram may take to answer a call, or to take the next piece of a document; to give up early
    means to send a document twice."""

    signing_keys: Annotated[tuple[SecretStr, ...], *Separated] = Field(
        alias="PGFERRY_SIGNING_KEY", min_length=1
    )
    """Comma-separated, each at least 32 characters; the first signs, all verify."""

    @field_validator("signing_keys")
    @classmethod
    def _long_enough(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < MIN_KEY_CHARACTERS for key in value):
            raise ValueError(f"each key must have at least {MIN_KEY_CHARACTERS} characters")
        return value

    @property
    def signing_secrets(self) -> list[str]:
        return [key.get_secret_value() for key in self.signing_keys]


class PostingSettings(StoreSettings):
    """What whoever posts must be told too: where, and how often."""

    chat_ids: Annotated[tuple[int, ...], *Separated] = Field(alias="TELEGRAM_CHAT_ID", min_length=1)
    """Comma-separated ids of chats where the bot may post; parts are spread over them in turn.
    In the first it should also be allowed to pin and delete: the catalogue is there."""

    lane_messages: int = Field(default=20, ge=0, alias="PGFERRY_LANE_MESSAGES")
    """Posts of this bot in one chat in any `PGFERRY_LANE_WINDOW_SECONDS`, over all uploaders and
    commands: Telegram's limit. 0: no limit, for a Bot API server of your own."""

    lane_window_seconds: float = Field(default=60, gt=0, le=3600, alias="PGFERRY_LANE_WINDOW_SECONDS")
    """The time in which `PGFERRY_LANE_MESSAGES` are counted."""

    bot_messages: int = Field(default=30, ge=0, alias="PGFERRY_BOT_MESSAGES")
    """Posts of this bot in all chats in any `PGFERRY_BOT_WINDOW_SECONDS`: Telegram's limit. 0: no limit."""

    bot_window_seconds: float = Field(default=1, gt=0, le=3600, alias="PGFERRY_BOT_WINDOW_SECONDS")
    """The time in which `PGFERRY_BOT_MESSAGES` are counted."""
