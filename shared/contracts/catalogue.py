"""What is pinned in the chat: where the manifest of each live backup is.

The uploader makes the `Catalogue` from the control plane; `pgferry catalogue rebuild` makes the control plane
from it. Sizes are bytes, times UTC; message and file ids are those of the bot that sent them.
"""

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, NonNegativeInt, PositiveInt

from shared.contracts.job import ProjectId
from shared.contracts.manifest import Document, Sha256Hex

#: What a catalogue's name ends with in the chat.
CATALOGUE_SUFFIX = ".catalogue"


class CatalogueEntry(Document):
    """A backup that can be restored, by the one document that describes it."""

    backup_id: UUID
    project_id: ProjectId
    type: Literal["database", "storage", "logs"]
    size_bytes: NonNegativeInt
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    chat_id: int
    message_id: PositiveInt
    file_id: str
    sha256: Sha256Hex
    """Of the manifest, as it was sent."""


class Catalogue(Document):
    """Every live backup of one bot at `made_at`; the highest `revision` is the newest."""

    kind: Literal["pgferry.catalogue.v1"] = "pgferry.catalogue.v1"
    bot_id: int
    revision: PositiveInt
    made_at: AwareDatetime
    entries: tuple[CatalogueEntry, ...]
