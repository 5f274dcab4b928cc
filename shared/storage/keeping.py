"""What a person decides about a stored backup: other words, another expiry, its end.

`pgferry backups update` and `delete`, and `cli.library`, call it; each decision is one transaction with its
audit row.
"""

from dataclasses import dataclass
from uuid import UUID

from shared.contracts.backup import Changes
from shared.contracts.errors import PermanentError
from shared.storage.backups import Backup
from shared.storage.database import Database
from shared.storage.expiry import Expiry


@dataclass(frozen=True, slots=True)
class Keeping:
    database: Database
    actor: str

    async def find(self, backup_id: UUID) -> Backup:
        """Raises PermanentError `unknown_backup`."""
        async with self.database.session() as session:
            backup = await session.backups.find(backup_id)
        if backup is None:
            raise PermanentError("unknown_backup", f"no backup {backup_id}")
        return backup

    async def update(self, backup_id: UUID, changes: Changes) -> Backup:
        """The changed backup. Raises PermanentError `unknown_backup` or `backup_not_stored`."""
        async with self.database.transaction() as transaction:
            backup = await transaction.backups.update(backup_id, changes)
            if backup:
                await transaction.audit.add(
                    self.actor,
                    "backup.update",
                    project_id=backup.project_id,
                    backup_id=backup_id,
                    detail=changes.model_dump(exclude_defaults=True),
                )
        return backup or await self._stored(backup_id)

    async def delete(self, backup_id: UUID, *, even_newest: bool = False) -> None:
        """End it as expiry does.

        Raises PermanentError `unknown_backup`, `backup_not_stored`, or `backup_newest`, unless `even_newest`,
        for the newest stored one of its project and type.
        """
        if await Expiry(self.database, actor=self.actor).discard(backup_id, even_newest=even_newest):
            return
        backup = await self._stored(backup_id)
        raise PermanentError(
            "backup_newest",
            f"backup {backup_id} is the newest stored {backup.type} backup of project {backup.project_id}; "
            "--even-newest ends it all the same",
        )

    async def _stored(self, backup_id: UUID) -> Backup:
        backup = await self.find(backup_id)
        if backup.status != "stored":
            raise PermanentError("backup_not_stored", f"backup {backup_id} is {backup.status}, not stored")
        return backup
