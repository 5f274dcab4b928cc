"""What the commands need from the environment; the services read their own settings."""

from typing import Annotated

from pydantic import Field

from shared.runtime.settings import Separated, Settings
from shared.runtime.store_settings import PostingSettings, StoreSettings


class DatabaseSettings(Settings):
    database_url: str = Field(alias="DATABASE_URL", pattern=r"^postgres(ql)?://")


class BrokerSettings(Settings):
    amqp_url: str = Field(alias="AMQP_URL", pattern=r"^amqps?://")


class LetterSettings(DatabaseSettings, BrokerSettings):
    """Enough to decide about letters: they are on the broker, and what they are about is in the database."""


class FetchSettings(DatabaseSettings, StoreSettings):
    """Enough to find a backup and bring it back."""


class SendSettings(DatabaseSettings, PostingSettings):
    """Enough to send a file to the chat and record it."""


class CatalogueSettings(StoreSettings):
    """Enough to see what a chat has pinned."""

    chat_ids: Annotated[tuple[int, ...], *Separated] = Field(default=(), alias="TELEGRAM_CHAT_ID")
    """As the uploader has it: the catalogue is in the first."""


class RebuildSettings(DatabaseSettings, CatalogueSettings):
    """Enough to fill a control plane from the chat."""


class DoctorSettings(StoreSettings):
    """What an uploader is told of Telegram."""

    chat_ids: Annotated[tuple[int, ...], *Separated] = Field(alias="TELEGRAM_CHAT_ID", min_length=1)
    """The chats to look at."""


class DevelopmentSettings(Settings):
    development: bool = Field(default=False, alias="PGFERRY_DEV")
    """Allows what must never run in production, such as issuing tokens."""
