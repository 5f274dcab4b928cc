"""The uploader's settings; see `shared.runtime.settings` for how they are read."""

from typing import Annotated

from pydantic import Field

from services.worker_settings import WorkerProcessSettings
from shared.runtime.settings import Separated
from shared.runtime.store_settings import StoreSettings


class UploaderSettings(WorkerProcessSettings, StoreSettings):
    chat_ids: Annotated[tuple[int, ...], *Separated] = Field(alias="TELEGRAM_CHAT_ID", min_length=1)
    """Comma-separated ids of chats where the bot may post; parts are spread over them in turn.
    In the first it should also be allowed to pin and delete: the catalogue is there."""

    lane_messages: int = Field(default=20, ge=0, alias="PGFERRY_LANE_MESSAGES")
    """Posts of this bot in one chat in any `PGFERRY_LANE_WINDOW_SECONDS`, over all uploaders: Telegram's
    limit. 0: no limit, for a Bot API server of your own."""

    lane_window_seconds: float = Field(default=60, gt=0, le=3600, alias="PGFERRY_LANE_WINDOW_SECONDS")
    """The time in which `PGFERRY_LANE_MESSAGES` are counted."""

    slots: int = Field(default=2, ge=1, le=64, alias="PGFERRY_UPLOADER_SLOTS")
    """Jobs at once in this process."""

    admin_port: int = Field(default=9103, ge=0, le=65535, alias="PGFERRY_ADMIN_PORT")
    """Where health and metrics are."""

    catalogue_seconds: float = Field(default=60, ge=0, le=86400, alias="PGFERRY_CATALOGUE_SECONDS")
    """At least so long between two catalogues in the first chat, each listing every live backup; 0 for none,
    and then nobody finds a backup if the control plane is lost."""
