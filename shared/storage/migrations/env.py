"""Alembic's entry: turns the revisions into SQL; `shared.storage.migrate` runs that SQL."""

from alembic import context

context.configure(
    dialect_name="postgresql",
    version_table_schema="control_plane",
    transactional_ddl=False,
)
context.run_migrations()
