"""Projects: a table that the platform may own; only `id` (text or uuid) and `slug` are relied on."""

from shared.contracts.errors import PermanentError
from shared.storage.database import Database

_SLUG = "SELECT slug FROM control_plane.projects WHERE id::text = $1"


async def slug_of(database: Database, project_id: str) -> str:
    """Raises PermanentError `unknown_project`."""
    async with database.session() as session:
        slug: str | None = await session.executor.fetchval(_SLUG, project_id)
    if slug is None:
        raise PermanentError(
            "unknown_project",
            f"No project {project_id!r} in control_plane.projects; add it, then ask again.",
        )
    return slug
