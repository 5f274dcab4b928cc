"""The uploader's settings; see `shared.runtime.settings` for how they are read."""

from typing import Self

from pydantic import Field, model_validator

from services.worker_settings import WorkerProcessSettings
from shared.runtime.store_settings import PostingSettings


class UploaderSettings(WorkerProcessSettings, PostingSettings):
    slots: int = Field(default=2, ge=1, le=64, alias="PGFERRY_UPLOADER_SLOTS")
    """Jobs at once in this process."""

    admin_port: int = Field(default=9103, ge=0, le=65535, alias="PGFERRY_ADMIN_PORT")
    """Where health and metrics are."""

    catalogue_seconds: float = Field(default=60, ge=0, le=86400, alias="PGFERRY_CATALOGUE_SECONDS")
    """At least so long between two catalogues in the first chat, each listing every live backup; 0 for none,
    and then nobody finds a backup if the control plane is lost."""

    chat_exclusive: bool = Field(default=False, alias="TELEGRAM_CHAT_EXCLUSIVE")
    """`true`: nobody but uploaders and commands of this control plane posts to the chats of
    `TELEGRAM_CHAT_ID`, and an uploader deletes what no row names where a document whose answer was lost may
    be. It would delete what people, other bots, another pgferry and `pgferry backups send --no-record` have
    posted in between, and what `pgferry backups record` is still to record. Needs the pinned catalogue."""

    @model_validator(mode="after")
    def _sure_of_its_rows(self) -> Self:
        if self.chat_exclusive and not self.catalogue_seconds:
            raise ValueError(
                "TELEGRAM_CHAT_EXCLUSIVE needs a catalogue: PGFERRY_CATALOGUE_SECONDS must not be 0"
            )
        return self
