"""Groups that became supergroups have another id."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CHAT_MOVES = """
    CREATE TABLE control_plane.chat_moves (
        chat_id      bigint PRIMARY KEY,
        new_chat_id  bigint NOT NULL,
        moved_at     timestamptz NOT NULL DEFAULT now()
    )
"""


def upgrade() -> None:
    op.execute(CHAT_MOVES)
