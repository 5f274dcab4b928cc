-- The read-only role that dumps the tenants: what it must not do, whichever way it gets its right to read.
-- Run once in each tenants' database, as a superuser or the database's owner, after roles.sql:
--   psql -X -v ON_ERROR_STOP=1 -f dump_role.sql
-- Then run read_tenants.sql, or read_everything.sql. Safe to run again.

-- By default everybody may make temporary tables in a database, and before PostgreSQL 15 tables in `public`.
-- Roles of yours that need temporary tables get the right back by name: GRANT TEMPORARY ON DATABASE … TO …;
SELECT format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC, pgferry_dump', current_database()) \gexec
SELECT format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC, pgferry_dump', nspname)
  FROM pg_namespace WHERE nspname = 'public' \gexec

-- No wall, since a session may set it back, but whatever writes by mistake fails.
SELECT format('ALTER ROLE pgferry_dump IN DATABASE %I SET default_transaction_read_only = on', current_database()) \gexec
