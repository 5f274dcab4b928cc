-- Another tenant, of which nothing may turn up in the demo tenant's backup. Every kind of row carries the canary.

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    profile jsonb NOT NULL
);
CREATE TABLE lines (
    line text
);

INSERT INTO customers (name, profile)
SELECT current_setting('sandbox.canary') || ' ' || n, jsonb_build_object('secret', current_setting('sandbox.canary'))
  FROM generate_series(1, 100) AS n;
INSERT INTO lines SELECT current_setting('sandbox.canary') FROM generate_series(1, 100);
