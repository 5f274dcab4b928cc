"""Catalogues in the chat, one row for each document that was or may have been sent."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CATALOGUES = """
    CREATE TABLE control_plane.catalogues (
        bot_id      bigint NOT NULL,
        revision    bigint NOT NULL,
        status      text NOT NULL DEFAULT 'sending'
            CHECK (status IN ('sending', 'sent', 'remote_remains')),
        chat_id     bigint NOT NULL,
        message_id  bigint,
        file_id     text,
        sha256      text NOT NULL,
        entry_count integer NOT NULL,
        reserved_at timestamptz NOT NULL DEFAULT now(),
        sent_at     timestamptz,
        pinned_at   timestamptz,
        PRIMARY KEY (bot_id, revision),
        CHECK (status = 'sending' OR message_id IS NOT NULL)
    )
"""

# What a catalogue lists, in its order.
BACKUPS_LIVE = """
    CREATE INDEX backups_live ON control_plane.backups (bot_id, created_at, id) WHERE status = 'stored'
"""


def upgrade() -> None:
    op.execute(CATALOGUES)
    op.execute(BACKUPS_LIVE)
