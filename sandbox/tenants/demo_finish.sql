-- Keys, indexes and code, after the rows: loading is faster so. Each function carries its own search_path,
-- because a restore runs with an empty one.

ALTER TABLE "mixedCase" ADD CONSTRAINT "is-a-product" FOREIGN KEY ("productId") REFERENCES products;
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "Order-Items" ADD FOREIGN KEY ("order-id") REFERENCES orders ON DELETE CASCADE;
ALTER TABLE "Order-Items" ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE attachments ADD FOREIGN KEY (order_id) REFERENCES orders;
ALTER TABLE nothing_yet ADD CHECK (reason IS NULL OR length(reason) < 100) NOT VALID;

CREATE INDEX orders_by_customer ON orders (customer_id, placed_at DESC);
CREATE INDEX unpaid_orders ON orders (placed_at) WHERE state = 'new';
CREATE UNIQUE INDEX customers_by_name ON customers (lower("fullName"));
CREATE INDEX customers_by_profile ON customers USING gin (profile jsonb_path_ops);
CREATE INDEX customers_by_tag ON customers USING gin (tags);
CREATE INDEX events_by_time ON events (happened_at);
CREATE INDEX products_by_price ON products (price) INCLUDE (sku) WITH (fillfactor = 70);

CREATE FUNCTION note_the_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $body$
BEGIN
    NEW.changed_at := timestamptz '2025-06-01 12:00+00';
    RETURN NEW;
END
$body$;
CREATE TRIGGER orders_note_the_change BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note_the_change();
UPDATE orders SET state = 'paid' WHERE id <= 10;

CREATE FUNCTION what_a_dump_looks_like(table_name text DEFAULT 'it''s') RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $body$
BEGIN
    -- The lines below stand at the start of a line of the dump, outside any COPY block.
    RETURN $text$
COPY "x"."y" ("z") FROM stdin;
one row too many
\.
--
-- PostgreSQL database dump complete
--

\unrestrict x
$text$ || quote_ident(table_name) || (SELECT count(*) FROM nothing_yet);
END
$body$;
COMMENT ON FUNCTION what_a_dump_looks_like IS 'Tries to fool whoever reads a dump line by line.';

CREATE VIEW customer_totals AS
SELECT customer_id, count(DISTINCT orders.id) AS orders, sum(total) AS spent
  FROM orders JOIN "Order-Items" ON "order-id" = orders.id
 GROUP BY customer_id;
CREATE VIEW best_customers WITH (security_barrier) AS
SELECT "fullName", spent
  FROM customer_totals JOIN customers ON customers.id = customer_id
 WHERE spent > 100;
CREATE MATERIALIZED VIEW orders_by_state AS
SELECT state, count(*) AS orders, min(placed_at) AS first_placed_at FROM orders GROUP BY state;
CREATE UNIQUE INDEX one_row_a_state ON orders_by_state (state);

