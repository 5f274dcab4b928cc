-- A tenant to measure with, made as fast as the server can copy rows: `sandbox.batches` times a batch, which is
-- 20 MB of plain dump times `sandbox.share`. The mix is that of a shop: keys and numbers, texts, JSON, times. The
-- batches differ in keys and times alone; a whole one is more than a compressor's window holds, so the repetition
-- helps none of them.

SET LOCAL jit = off;
SET LOCAL work_mem = '64MB';

CREATE TABLE words AS
SELECT n AS number,
       (SELECT string_agg((ARRAY[
            'invoice', 'paid', 'late', 'parcel', 'customer', 'asked', 'for', 'a', 'refund', 'because', 'the', 'box',
            'was', 'damaged', 'in', 'transit', 'please', 'call', 'back', 'before', 'noon', 'delivery', 'to', 'second',
            'floor', 'address', 'changed', 'confirmed', 'by', 'mail', 'order', 'split'
        ])[1 + get_byte(digest, place) % 32], ' ')
          FROM generate_series(0, 15) AS place) AS sentence
  FROM generate_series(0, (10000 * current_setting('sandbox.share')::numeric)::bigint) AS n, sha256(int8send(n)) AS digest;

CREATE TABLE orders (
    id bigint NOT NULL,
    customer_id integer NOT NULL,
    state text NOT NULL,
    total numeric(14, 2) NOT NULL,
    weight double precision,
    note text,
    placed_at timestamptz NOT NULL
);
CREATE TABLE order_items (
    order_id bigint NOT NULL,
    line_number smallint NOT NULL,
    product_id integer NOT NULL,
    quantity integer NOT NULL,
    unit_price numeric(12, 2) NOT NULL,
    shipped_on date
);
CREATE TABLE events (
    id bigint NOT NULL,
    order_id bigint NOT NULL,
    happened_at timestamptz NOT NULL,
    payload jsonb NOT NULL
);
CREATE TABLE messages (
    id bigint NOT NULL,
    author text NOT NULL,
    body text NOT NULL,
    sent_at timestamptz NOT NULL,
    read boolean NOT NULL
);

INSERT INTO orders
SELECT n, n * 31 % 50000, (ARRAY['new', 'paid', 'in transit', 'done', 'returned'])[1 + n % 5],
       (n * 7919 % 10000000) / 100.0, CASE WHEN n % 4 > 0 THEN n / 7.0 END,
       CASE WHEN n % 3 > 0 THEN sentence END, timestamptz '2024-01-01 00:00+00' + n * interval '37 seconds'
  FROM generate_series(1, (45000 * current_setting('sandbox.share')::numeric)::bigint) AS n JOIN words ON number = n * 7919 % (SELECT count(*) FROM words);
INSERT INTO order_items
SELECT n / 3, n % 3, n * 31 % 5000, 1 + n % 9, (n * 104729 % 1000000) / 100.0,
       CASE WHEN n % 5 > 0 THEN date '2024-01-01' + (n % 700)::integer END
  FROM generate_series(1, (136000 * current_setting('sandbox.share')::numeric)::bigint) AS n;
INSERT INTO events
SELECT n, n / 2, timestamptz '2024-01-01 00:00+00' + n * interval '11 seconds',
       jsonb_build_object('trace', md5(n::text), 'actor', 'clerk ' || n % 23, 'amount', n % 977 / 10.0,
                          'message', sentence, 'tags', ARRAY['auto', 'level ' || n % 7])
  FROM generate_series(1, (22600 * current_setting('sandbox.share')::numeric)::bigint) AS n JOIN words ON number = n * 4999 % (SELECT count(*) FROM words);
INSERT INTO messages
SELECT n, 'user' || n % 4001 || '@example.com', sentence || ' #' || md5(n::text) || ' ' || reverse(sentence),
       timestamptz '2024-01-01 00:00+00' + n * interval '23 seconds', n % 2 = 0
  FROM generate_series(1, (13600 * current_setting('sandbox.share')::numeric)::bigint) AS n JOIN words ON number = n * 13 % (SELECT count(*) FROM words);

DROP TABLE words;

INSERT INTO orders
SELECT id + batch * 45000, customer_id, state, total, weight, note, placed_at + batch * interval '1 hour'
  FROM generate_series(2, current_setting('sandbox.batches')::integer) AS batch, orders;
INSERT INTO order_items
SELECT order_id + batch * 45000, line_number, product_id, quantity, unit_price, shipped_on
  FROM generate_series(2, current_setting('sandbox.batches')::integer) AS batch, order_items;
INSERT INTO events
SELECT id + batch * 22600, order_id + batch * 45000, happened_at + batch * interval '1 hour', payload
  FROM generate_series(2, current_setting('sandbox.batches')::integer) AS batch, events;
INSERT INTO messages
SELECT id + batch * 13600, author, body, sent_at + batch * interval '1 hour', read
  FROM generate_series(2, current_setting('sandbox.batches')::integer) AS batch, messages;
