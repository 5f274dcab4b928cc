-- Rows made from nothing but numbers, so that two runs give the same. `sandbox.orders` is the number of orders,
-- of which all else is a fraction or a multiple; `sandbox.sentences` that of different sentences in their texts.

SET LOCAL jit = off;  -- compiling these queries costs more than it saves
SET LOCAL work_mem = '64MB';  -- so that nothing is sorted on disk

-- Sentences of 32 words each, picked by a hash: as compressible as prose is.
CREATE TABLE sentences AS
SELECT n AS number,
       (SELECT string_agg((ARRAY[
            'invoice', 'paid', 'late', 'parcel', 'customer', 'asked', 'for', 'a', 'refund', 'because', 'the', 'box',
            'was', 'damaged', 'in', 'transit', 'please', 'call', 'back', 'before', 'noon', 'delivery', 'to', 'second',
            'floor', 'address', 'changed', 'confirmed', 'by', 'mail', 'order', 'split', 'into', 'two', 'shipments',
            'waiting', 'stock', 'from', 'supplier', 'discount', 'approved', 'manager', 'gift', 'wrap', 'and', 'card',
            'included', 'no', 'signature', 'required', 'left', 'with', 'porter', 'returned', 'unopened', 'label',
            'missing', 'weight', 'differs', 'customs', 'form', 'attached', 'see', 'ticket'
        ])[1 + get_byte(digest, place) % 64], ' ')
          FROM generate_series(0, 31) AS place) AS words
  FROM generate_series(1, current_setting('sandbox.sentences')::bigint) AS n, sha256(int8send(n)) AS digest;
ANALYZE sentences;

INSERT INTO products (sku, price, states_sold)
SELECT 'SKU-' || lpad(n::text, 6, '0'),
       (n * 7919 % 100000) / 100.0,
       CASE WHEN n % 3 = 0 THEN ARRAY['new', 'in transit']::order_state[] ELSE '{}' END
  FROM generate_series(1, 200) AS n;

INSERT INTO "mixedCase"
SELECT n, CASE WHEN n % 4 > 0 THEN 'size ' || n % 50 END, CASE WHEN n % 5 > 0 THEN sha256(int8send(n)) END
  FROM generate_series(1, 200) AS n;

INSERT INTO customers ("fullName", email, tags, scores, profile, balance, rating, since)
SELECT initcap(split_part(words, ' ', 1)) || ' ' || n,
       CASE WHEN n % 10 > 0 THEN 'customer' || n || '@example.com' END,
       ARRAY['segment ' || n % 7, 'it''s "quoted", {braced}'],
       CASE WHEN n % 3 > 0 THEN ARRAY[n::integer, NULL, -1] END,
       jsonb_build_object('key', md5(n::text), 'visits', n % 97, 'newsletter', n % 2 = 0, 'note', words),
       (n * 104729 % 100000000) / 10000.0,
       CASE WHEN n % 11 = 0 THEN 'NaN' ELSE n / 7.0 END,
       timestamptz '2020-01-01 00:00+00' + n * interval '17 minutes'
  FROM generate_series(1, 10 + current_setting('sandbox.orders')::bigint / 10) AS n
  JOIN sentences ON number = 1 + n * 31 % current_setting('sandbox.sentences')::bigint
 ORDER BY n;

INSERT INTO orders (customer_id, state, note, placed_at)
SELECT 1 + n * 31 % (SELECT count(*) FROM customers),
       (enum_range(NULL::order_state))[1 + n % 5],
       CASE WHEN n % 20 > 0 THEN words || ' #' || md5(n::text) END,
       timestamptz '2024-01-01 00:00+00' + n * interval '11 minutes'
  FROM generate_series(1, current_setting('sandbox.orders')::bigint) AS n
  JOIN sentences ON number = 1 + n * 7919 % current_setting('sandbox.sentences')::bigint
 ORDER BY n;

INSERT INTO "Order-Items" ("order-id", "lineNo", product_id, quantity, unit_price)
SELECT id, line_number, 1 + (id * 7 + line_number) % 200, 1 + id % 5, (id * 7919 % 100000) / 100.0
  FROM orders, generate_series(1, 2) AS line_number
 ORDER BY id, line_number;

INSERT INTO events (id, happened_at, payload)
SELECT id,
       placed_at + interval '5 seconds',
       jsonb_build_object('order', id, 'trace', md5(id::text), 'actor', 'clerk ' || id % 23,
                          'message', words || ' ' || note, 'tags', ARRAY['auto', state::text])
  FROM orders
  JOIN sentences ON number = 1 + id * 4999 % current_setting('sandbox.sentences')::bigint
 WHERE id % 2 = 0
 ORDER BY id;

INSERT INTO attachments
SELECT id, id, convert_to(words, 'UTF8') || sha256(int8send(id)) || decode(repeat(md5(id::text), 20), 'hex')
  FROM orders
  JOIN sentences ON number = 1 + id * 13 % current_setting('sandbox.sentences')::bigint
 WHERE id % 6 = 0
 ORDER BY id;

DROP TABLE sentences;

SELECT nextval('ticket_numbers') FROM generate_series(1, 3);

INSERT INTO lines VALUES
    (format('COPY "%s"."lines" ("line") FROM stdin;', current_schema())),
    (format('COPY %I.lines (line) FROM stdin;', current_schema())),
    ('\.'),
    (E'\\.\n\\.'),
    ('\N'),
    (NULL),
    (''),
    ('--'),
    ('-- PostgreSQL database dump complete'),
    ('\unrestrict x'),
    ('\connect other'),
    ('DROP SCHEMA public CASCADE;'),
    ('ends with a backslash \');

INSERT INTO awkward_texts VALUES
    (1, E'tab\tnewline\nreturn\rbackspace\b formfeed\f vertical\v', '{}', ''),
    (2, 'backslash \ doubled \\ and \t \n \x41 as written', ARRAY['\', '"', ',', '{}', NULL, 'NULL', ''], '\x5c2e0a00'),
    (3, 'naïve Zürich, 東京, Ελλάδα, עברית, 🚢 and a combining é', ARRAY['🚢'], '\x00ff'),
    (4, $$'single' "double" `back` $dollar$ %s {0} ; -- no comment /* neither */$$, NULL, NULL),
    (5, E'first\n\\.\nCOPY "x"."y" ("z") FROM stdin;\n-- PostgreSQL database dump complete\n', NULL, NULL),
    (6, NULL, NULL, NULL),
    (7, '', ARRAY[''], ''),
    (8, repeat('a long row, ', 20000), NULL, NULL);
