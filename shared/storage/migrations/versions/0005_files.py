"""Documents of files that operators send: sets without a job, found when they were never recorded."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Of a row that was never sent nothing else tells its age.
PLANNED_AT = """
    ALTER TABLE control_plane.backup_parts ADD COLUMN planned_at timestamptz NOT NULL DEFAULT now()
"""

BACKUP_PARTS_FILES = """
    CREATE INDEX backup_parts_files ON control_plane.backup_parts (job_id)
        WHERE dump_fence = 0 AND status IN ('planned', 'sending', 'sent')
"""


def upgrade() -> None:
    op.execute(PLANNED_AT)
    op.execute(BACKUP_PARTS_FILES)
