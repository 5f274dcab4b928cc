-- One of many tenants: `sandbox.tables` tables with `sandbox.rows` rows in each.

DO $do$
BEGIN
    FOR number IN 1 .. current_setting('sandbox.tables')::integer LOOP
        EXECUTE format(
            'CREATE TABLE t%s (id bigint PRIMARY KEY, made_at timestamptz NOT NULL DEFAULT now(), body text)', number
        );
        EXECUTE format(
            'INSERT INTO t%s (id, body) SELECT n, ''Row '' || n || '' of '' || md5(n::text)'
            ' FROM generate_series(1, current_setting(''sandbox.rows'')::integer) AS n', number
        );
    END LOOP;
END
$do$;
