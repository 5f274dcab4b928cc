-- The least that has a foreign key, a sequence and texts: for tests that need some tenant. `sandbox.rows` rows
-- in each of the three tables.

CREATE TABLE customers (
    id integer PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    amount numeric(12, 2) NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE notes (
    body text
);

INSERT INTO customers SELECT n, 'Customer ' || n FROM generate_series(1, current_setting('sandbox.rows')::integer) n;
INSERT INTO orders (customer_id, amount, placed_at)
SELECT id, id * 1.25, timestamptz '2025-01-01 00:00+00' + id * interval '1 minute' FROM customers;
INSERT INTO notes SELECT E'line one\nline two\t' || md5(id::text) FROM customers;
