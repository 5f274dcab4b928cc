"""What to make of a pinned catalogue that `control_plane.catalogues` does not know.

Such a one is left when the control plane was lost or set back in time. It must not be replaced by a list that
holds less, for then nobody would find what only it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.catalogue import CATALOGUE_SUFFIX, Catalogue
from shared.contracts.errors import PermanentError
from shared.runtime.catalogue_document import sha256_of
from shared.runtime.signing import NotAuthentic, Signer
from shared.storage.catalogues import CatalogueRow
from shared.storage.database import Database
from shared.telegram.catalogue import read_catalogue
from shared.telegram.client import TelegramChatStore
from shared.telegram.pins import Pinned


@dataclass(frozen=True, slots=True)
class PinnedCatalogue:
    database: Database
    telegram: TelegramChatStore
    signer: Signer

    async def adopt(self, shown: Pinned, file_id: str) -> bool:
        """Record it, so that it is replaced like any other; False for what is not this bot's catalogue.

        Raises PermanentError when it lists backups that were never recorded here.
        """
        catalogue = await self._read(file_id)
        if catalogue is None:
            return False
        async with self.database.session() as session:
            unknown = await session.catalogues.unknown([entry.backup_id for entry in catalogue.entries])
            if unknown:
                raise _unknown(unknown)
            await session.catalogues.found(
                catalogue.bot_id,
                catalogue.revision,
                chat_id=shown.chat_id,
                message_id=shown.message_id,
                file_id=file_id,
                sha256=sha256_of(catalogue.entries),
                entries=len(catalogue.entries),
            )
        return True

    async def _read(self, file_id: str) -> Catalogue | None:
        try:
            catalogue = await read_catalogue(self.telegram, file_id, self.signer)
        except NotAuthentic:
            return None
        return catalogue if catalogue.bot_id == self.telegram.bot_id else None


def is_recorded(rows: Sequence[CatalogueRow], shown: Pinned) -> bool:
    return any((row.chat_id, row.message_id) == (shown.chat_id, shown.message_id) for row in rows)


def looks_like_one(shown: Pinned) -> bool:
    return shown.filename is not None and shown.filename.endswith(CATALOGUE_SUFFIX)


def _unknown(number: int) -> PermanentError:
    return PermanentError(
        "catalogue_unknown",
        f"Backups in the pinned catalogue that control_plane does not know: {number}. "
        "Run pgferry catalogue rebuild.",
    )
