-- A tenant that is entangled with what lies outside of its schema. Run with search_path set to that schema.

CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public;
CREATE EXTENSION IF NOT EXISTS lo SCHEMA public;
CREATE EXTENSION IF NOT EXISTS hstore;  -- into the tenant's own schema

CREATE SCHEMA IF NOT EXISTS shared_things;
CREATE TABLE shared_things.countries (code text PRIMARY KEY);
CREATE TYPE shared_things.colour AS ENUM ('red', 'green');
CREATE FUNCTION shared_things.stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION shared_things.next_code() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;

CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TYPE pair AS (a integer, b integer);
CREATE DOMAIN short_text AS text CHECK (length(VALUE) < 100);
CREATE TYPE span AS RANGE (subtype = integer);

CREATE TABLE people (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    serial_number serial,
    email public.citext,
    emails public.citext[],
    country text REFERENCES shared_things.countries,
    colour shared_things.colour,
    code text DEFAULT shared_things.next_code(),
    feeling mood,
    "odd name" short_text
);
CREATE INDEX ON people USING gin (country public.gin_trgm_ops);
CREATE TRIGGER stamp BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION shared_things.stamp();
CREATE TABLE pictures (id integer, content oid, thumbnail public.lo, attributes hstore);
CREATE TABLE measured (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE shared_things.measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE SEQUENCE invoice_numbers;
CREATE VIEW people_of_countries AS SELECT people.id, code AS of_country FROM people JOIN shared_things.countries USING (code);
CREATE MATERIALIZED VIEW feelings AS SELECT feeling, count(*) FROM people GROUP BY feeling;
CREATE FUNCTION greet(who text, INOUT times integer) LANGUAGE plpgsql AS 'BEGIN times := 1; END';
CREATE PROCEDURE tidy() LANGUAGE sql AS 'SELECT';
CREATE AGGREGATE longest(text) (SFUNC = textcat, STYPE = text);
CREATE FUNCTION feels(mood) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 = 'good' $$;
CREATE CAST (mood AS boolean) WITH FUNCTION feels(mood);
CREATE STATISTICS people_statistics ON country, code FROM people;

ALTER TABLE people ENABLE ROW LEVEL SECURITY;
ALTER TABLE people FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON people TO entangled_reader USING (country IS NOT NULL);
CREATE PUBLICATION entangled_tables FOR TABLE pictures;
CREATE PUBLICATION entangled_schema FOR TABLES IN SCHEMA tenant_entangled;
SELECT lo_create(0);
SET LOCAL allow_system_table_mods = on;
INSERT INTO pg_seclabel VALUES ('pictures'::regclass, 'pg_class'::regclass, 0, 'sandbox', 'secret');
INSERT INTO pg_subscription_rel VALUES (4242, 'pictures'::regclass, 'r', NULL);
SET LOCAL allow_system_table_mods = off;

DO $$
BEGIN
    EXECUTE format('ALTER SCHEMA %I OWNER TO entangled_owner', current_schema());
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE entangled_owner IN SCHEMA %I GRANT SELECT ON TABLES TO entangled_reader',
                   current_schema());
END
$$;
ALTER TABLE people OWNER TO entangled_owner;
ALTER TABLE pictures OWNER TO entangled_owner;
ALTER SEQUENCE invoice_numbers OWNER TO entangled_owner;
ALTER VIEW people_of_countries OWNER TO entangled_owner;
ALTER MATERIALIZED VIEW feelings OWNER TO entangled_owner;
ALTER FUNCTION greet(text, integer) OWNER TO entangled_owner;
ALTER PROCEDURE tidy() OWNER TO entangled_owner;
ALTER AGGREGATE longest(text) OWNER TO entangled_owner;
ALTER TYPE mood OWNER TO entangled_owner;
ALTER TYPE pair OWNER TO entangled_owner;
ALTER DOMAIN short_text OWNER TO entangled_owner;
ALTER STATISTICS people_statistics OWNER TO entangled_owner;

GRANT SELECT, INSERT ON people TO entangled_reader;
GRANT SELECT (id, "odd name"), UPDATE ("odd name") ON people TO PUBLIC;
GRANT SELECT ON pictures TO entangled_reader WITH GRANT OPTION;
GRANT USAGE ON SEQUENCE invoice_numbers TO entangled_reader;
REVOKE EXECUTE ON FUNCTION greet(text, integer) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE tidy() TO entangled_reader;
REVOKE USAGE ON TYPE mood FROM PUBLIC;
