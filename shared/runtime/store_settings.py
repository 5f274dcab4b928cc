"""What whoever reads or writes the chat must be told: the bot, and the keys of its manifests.

The uploader and `pgferry backups fetch` share them.
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
