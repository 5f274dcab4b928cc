"""Takes dumps from the spool to the chat and records them as backups."""
