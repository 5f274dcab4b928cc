"""Failed jobs are found by when they failed: a dump is kept for a time, and then its parts are given up."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX jobs_failed ON control_plane.jobs (finished_at) WHERE status = 'failed'")
