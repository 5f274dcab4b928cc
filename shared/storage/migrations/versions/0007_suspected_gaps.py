"""Which message ids of a chat are known, and when the call began whose document is suspected."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Rows of before have none, and their gaps are not looked through.
SENDING_AT = "ALTER TABLE control_plane.suspected_sends ADD COLUMN sending_at timestamptz"

BACKUP_PARTS_MESSAGES = """
    CREATE INDEX backup_parts_messages ON control_plane.backup_parts (chat_id, message_id)
"""

# Each round of the expiry asks for them, and hardly ever there is one.
BACKUPS_EXPIRING = """
    CREATE INDEX backups_expiring ON control_plane.backups (id) WHERE status = 'expiring'
"""


def upgrade() -> None:
    op.execute(SENDING_AT)
    op.execute(BACKUP_PARTS_MESSAGES)
    op.execute(BACKUPS_EXPIRING)
