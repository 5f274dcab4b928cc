-- One of many neighbours: `sandbox.tables` empty tables, for what a crowded catalogue costs.

DO $do$
BEGIN
    FOR number IN 1 .. current_setting('sandbox.tables')::integer LOOP
        EXECUTE format(
            'CREATE TABLE t%s (id bigint PRIMARY KEY, made_at timestamptz NOT NULL DEFAULT now(), body text)', number
        );
    END LOOP;
END
$do$;
