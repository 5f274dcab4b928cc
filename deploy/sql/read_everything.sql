-- The simple way: pgferry_dump may read everything, whoever makes it. Run once, as a superuser:
--   psql -X -v ON_ERROR_STOP=1 -f read_everything.sql
--
-- Its price: the role reads every table of every database of this server, the control plane and pg_authid
-- (the hashes of all passwords) included, so whoever gets its password gets all of that. It does not pass
-- row-level security; for that: ALTER ROLE pgferry_dump BYPASSRLS;

GRANT pg_read_all_data TO pgferry_dump;
