-- One of each kind of thing that a schema may hold, from PostgreSQL 14 on. Types with values: see the tests.
CREATE TYPE state AS ENUM ('new', 'it''s "done"', E'back\\slash', '');
CREATE TYPE address AS (street text, numbers integer[], "since when" tstzrange);
CREATE TYPE span AS RANGE (subtype = double precision, subtype_diff = float8mi, multirange_type_name = spans);
CREATE TYPE only_announced;
CREATE DOMAIN short_text AS varchar(40) COLLATE "C" DEFAULT 'none' CONSTRAINT not_blank CHECK (VALUE <> '');
CREATE DOMAIN shorter_text AS short_text NOT NULL CHECK (length(VALUE) < 20);
CREATE DOMAIN addresses AS address[];
CREATE COLLATION by_byte (LOCALE = 'C');
CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple, accept = false);
CREATE TEXT SEARCH CONFIGURATION plain_words (COPY = simple);
ALTER TEXT SEARCH CONFIGURATION plain_words ALTER MAPPING FOR asciiword WITH words, simple;

CREATE SEQUENCE downwards AS smallint INCREMENT -3 MINVALUE -9 MAXVALUE 9 START 6 CACHE 2 CYCLE;
SELECT nextval('downwards') FROM generate_series(1, 5);
CREATE SEQUENCE untouched START 7;

CREATE FUNCTION same(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT RETURN $1 = $2;
CREATE FUNCTION "a ""name"""(a text DEFAULT E'\n\\.\n', VARIADIC "rest of" text[] DEFAULT '{}')
    RETURNS TABLE (n bigint) LANGUAGE plpgsql STABLE PARALLEL SAFE COST 7 ROWS 3 SECURITY DEFINER
    SET search_path = pg_catalog SET work_mem = '1MB' AS $body$
BEGIN
    RETURN QUERY SELECT length($$it's
-- PostgreSQL database dump complete
$$)::bigint;
END $body$;
CREATE PROCEDURE add_one(INOUT x integer) BEGIN ATOMIC SELECT x + 1; END;
CREATE FUNCTION of_no_table() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT x FROM not_there); END';
CREATE AGGREGATE total(integer) (sfunc = int4pl, stype = integer, initcond = '0', parallel = safe);
CREATE OPERATOR === (LEFTARG = integer, RIGHTARG = integer, FUNCTION = same, COMMUTATOR = ===, RESTRICT = eqsel);
CREATE OPERATOR FAMILY odd_order USING btree;
CREATE OPERATOR CLASS odd_order FOR TYPE integer USING btree FAMILY odd_order AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(integer, integer);

CREATE TABLE people (
    id bigint GENERATED ALWAYS AS IDENTITY (START -5 MINVALUE -5 INCREMENT 5) PRIMARY KEY,
    "Full Name" shorter_text DEFAULT 'nobody',
    home address,
    others addresses,
    known state[] NOT NULL DEFAULT '{new,NULL}',
    between_ span CHECK (between_ <> 'empty'),
    upper_name text COLLATE by_byte GENERATED ALWAYS AS (upper("Full Name"::text)) STORED,
    bulky text,
    number integer DEFAULT nextval('downwards'),
    old serial,
    UNIQUE ("Full Name", old) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT apart EXCLUDE USING gist (between_ WITH &&) WHERE (number > 0)
) WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE people ALTER bulky SET STORAGE EXTERNAL, ALTER bulky SET COMPRESSION pglz;
ALTER TABLE people ALTER number SET STATISTICS 500, ALTER number SET (n_distinct = -0.5);
INSERT INTO people ("Full Name", home, others, between_, bulky) VALUES
    (E'a\tb\\.', ('High "St"', '{1,NULL}', '[2000-01-01 00:00:00+00,)'), NULL, '[1,2)', repeat('long ', 5000)),
    (DEFAULT, NULL, ARRAY[(E'\n\\.\n', '{}', NULL)::address, NULL], NULL, '');
ALTER TABLE people REPLICA IDENTITY FULL, CLUSTER ON people_pkey;
CREATE UNIQUE INDEX "only new" ON people (lower(bulky) COLLATE "C" text_pattern_ops DESC) INCLUDE (id) WHERE number > 99;
CREATE INDEX odd ON people (number odd_order NULLS FIRST);
CREATE INDEX ON people USING gin (to_tsvector('plain_words', bulky)) WITH (fastupdate = off);
CREATE INDEX ON people USING brin (id) WITH (pages_per_range = 4);
CREATE STATISTICS names (dependencies, ndistinct) ON id, number FROM people;
CREATE STATISTICS of_expressions (mcv) ON (number % 7), (bulky || 'x') FROM people;
ALTER STATISTICS names SET STATISTICS 42;

CREATE TABLE events (person bigint, at timestamptz, what state DEFAULT 'new', PRIMARY KEY (person, at))
    PARTITION BY RANGE (at);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2000-01-01 00:00:00+00')
    PARTITION BY LIST (person);
CREATE TABLE events_old_one PARTITION OF events_old FOR VALUES IN (1, -5) PARTITION BY HASH (at);
CREATE TABLE events_old_one_0 PARTITION OF events_old_one FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_old_one_1 PARTITION OF events_old_one FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE "events, rest" PARTITION OF events (what DEFAULT '' NOT NULL) DEFAULT;
CREATE TABLE events_attached (what state, "gone soon" integer, at timestamptz NOT NULL, person bigint NOT NULL);
ALTER TABLE events_attached DROP "gone soon";
ALTER TABLE events ATTACH PARTITION events_attached
    FOR VALUES FROM ('2001-01-01 00:00:00+00') TO ('2002-01-01 00:00:00+00');
ALTER TABLE events ADD FOREIGN KEY (person) REFERENCES people ON DELETE CASCADE;
CREATE INDEX by_time ON events (at DESC);
CREATE INDEX by_what ON ONLY events (what);
INSERT INTO events SELECT -5, day FROM generate_series('1999-12-30'::timestamptz, '2002-01-02', '100 days') AS day;

CREATE TABLE things (id integer, CONSTRAINT positive CHECK (id > 0), CONSTRAINT here CHECK (id < 99) NO INHERIT);
CREATE TABLE red_things (shade text) INHERITS (things);
CREATE TABLE big_red_things (id integer NOT NULL DEFAULT 9) INHERITS (red_things);
INSERT INTO things VALUES (1);
INSERT INTO red_things VALUES (2, 'pink');
INSERT INTO big_red_things (shade) VALUES (NULL), ('NULL');
CREATE TABLE homes OF address (street WITH OPTIONS NOT NULL);
INSERT INTO homes VALUES ('', '{}', 'empty');
CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS one;
CREATE TABLE no_columns ();
INSERT INTO no_columns SELECT FROM generate_series(1, 3);
CREATE TABLE hen (id integer PRIMARY KEY, egg integer);
CREATE TABLE egg (id integer PRIMARY KEY, hen integer REFERENCES hen DEFERRABLE);
ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg MATCH FULL ON UPDATE SET DEFAULT NOT VALID;
INSERT INTO egg VALUES (1, NULL);
INSERT INTO hen VALUES (1, 1), (2, NULL);
UPDATE egg SET hen = 1;

CREATE VIEW new_things WITH (security_barrier) AS SELECT id, 'x''\' AS "e'" FROM things WHERE id > 0 WITH LOCAL CHECK OPTION;
ALTER VIEW new_things ALTER id SET DEFAULT 7;
CREATE RECURSIVE VIEW numbers (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < 5;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n, total(id::integer) FROM things;
CREATE UNIQUE INDEX counted_n ON counted (n);
CREATE MATERIALIZED VIEW never_counted AS SELECT * FROM counted WITH NO DATA;
CREATE VIEW by_key AS SELECT id, bulky, count(*) FROM people GROUP BY id;

CREATE RULE "keep, please" AS ON DELETE TO hen WHERE old.id = 1 DO INSTEAD NOTHING;
CREATE RULE note AS ON INSERT TO new_things DO INSTEAD (INSERT INTO things VALUES (new.id); NOTIFY things);
ALTER TABLE hen DISABLE RULE "keep, please";
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER "is noted" BEFORE INSERT OR UPDATE OF bulky ON people FOR EACH ROW
    WHEN (new.bulky <> 'it''s') EXECUTE FUNCTION noted('a', 'b''\', '');
CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER of_statement AFTER UPDATE ON things REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION noted();
CREATE TRIGGER instead INSTEAD OF UPDATE ON numbers FOR EACH ROW EXECUTE FUNCTION noted();
ALTER TABLE people ENABLE ALWAYS TRIGGER "is noted";
ALTER TABLE events_attached DISABLE TRIGGER at_the_end;
CREATE POLICY "own ""rows""" ON people AS RESTRICTIVE FOR UPDATE TO PUBLIC USING (number > 0) WITH CHECK (true);
ALTER TABLE people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE people IS E'It''s\n-- PostgreSQL database dump complete\n\n\\.\n';
COMMENT ON COLUMN people."Full Name" IS '';
COMMENT ON COLUMN address."since when" IS 'of a type';
COMMENT ON CONSTRAINT apart ON people IS 'apart';
COMMENT ON CONSTRAINT not_blank ON DOMAIN short_text IS 'E''\\''';
COMMENT ON TYPE state IS '漢字 😀';
COMMENT ON DOMAIN addresses IS 'many';
COMMENT ON INDEX "only new" IS '/* ';
COMMENT ON SEQUENCE downwards IS '$$';
COMMENT ON FUNCTION "a ""name""" IS '--';
COMMENT ON PROCEDURE add_one IS ';';
COMMENT ON AGGREGATE total(integer) IS '"';
COMMENT ON OPERATOR === (integer, integer) IS E'\t';
COMMENT ON OPERATOR CLASS odd_order USING btree IS 'odd';
COMMENT ON COLLATION by_byte IS 'C';
COMMENT ON TEXT SEARCH CONFIGURATION plain_words IS 'plain';
COMMENT ON TEXT SEARCH DICTIONARY words IS 'all';
COMMENT ON STATISTICS names IS 'two';
COMMENT ON VIEW new_things IS 'a view';
COMMENT ON MATERIALIZED VIEW counted IS 'a copy';
COMMENT ON RULE "keep, please" ON hen IS 'a rule';
COMMENT ON TRIGGER "is noted" ON people IS 'a trigger';
COMMENT ON POLICY "own ""rows""" ON people IS 'a policy';
