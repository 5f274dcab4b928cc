-- Lets pgferry_dump read every tenant's schema that is there, and those that `migrator` makes from now on.
-- Run in each tenants' database, as a superuser, once for each role that makes tables:
--   psql -X -v ON_ERROR_STOP=1 -v migrator=platform -f read_tenants.sql
-- Safe to run again: do so when another role has made tables (`permission_missing` names them).

SELECT format('GRANT USAGE ON SCHEMA %1$I TO pgferry_dump;'
              'GRANT SELECT ON ALL TABLES IN SCHEMA %1$I TO pgferry_dump;'
              'GRANT SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO pgferry_dump', nspname)
  FROM pg_namespace WHERE nspname LIKE 'tenant\_%' ORDER BY nspname \gexec

-- Default privileges go with the role that makes a table, not with its schema. They know no pattern, so the
-- tables that `migrator` makes in other schemas are granted, too; without USAGE on those schemas the grant
-- is of no use, but a schema that `migrator` makes is granted as well, whatever its name.
ALTER DEFAULT PRIVILEGES FOR ROLE :"migrator" GRANT USAGE ON SCHEMAS TO pgferry_dump;
ALTER DEFAULT PRIVILEGES FOR ROLE :"migrator" GRANT SELECT ON TABLES TO pgferry_dump;
ALTER DEFAULT PRIVILEGES FOR ROLE :"migrator" GRANT SELECT ON SEQUENCES TO pgferry_dump;
