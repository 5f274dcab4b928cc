-- Roles of the whole server, as other tenants of a test may have made them.
DO $$
DECLARE role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['entangled_owner', 'entangled_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I', role);
        END IF;
    END LOOP;
END
$$;
