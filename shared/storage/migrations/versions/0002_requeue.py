"""A failed job may be requeued, and an outbox row may carry a message that is not ours.

A requeued job is pending again and may wait at `dumped`, for its dump is still in the spool. Only pending
jobs at `queued` are joined by equal requests: the snapshot of the others is older than the request.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# PostgreSQL's own name of a constraint in 0001: CHECK (status <> 'pending' OR stage = 'queued').
PENDING_WAITS = """
    ALTER TABLE control_plane.jobs
        DROP CONSTRAINT jobs_check1,
        ADD CONSTRAINT jobs_pending_waits CHECK (status <> 'pending' OR stage IN ('queued', 'dumped'))
"""

PENDING_UNIQUE = """
    CREATE UNIQUE INDEX jobs_pending_unique ON control_plane.jobs (project_id, options_hash)
        WHERE status = 'pending' AND stage = 'queued'
"""

# What the original publisher wrote where our own messages have their row's id and `pgferry`.
PROPERTIES = "ALTER TABLE control_plane.outbox ADD COLUMN properties jsonb"


def upgrade() -> None:
    for statement in (
        PENDING_WAITS,
        "DROP INDEX control_plane.jobs_pending_unique",
        PENDING_UNIQUE,
        PROPERTIES,
    ):
        op.execute(statement)
