-- The roles of pgferry's services in the control plane, each with what it needs and no more.
-- Run after `pgferry migrate`, as the owner of the schema:  psql -v ON_ERROR_STOP=1 -f roles.sql
-- Then set a password for each: ALTER ROLE pgferry_gateway PASSWORD '…';  safe to run again.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgferry_gateway', 'pgferry_exporter', 'pgferry_uploader', 'pgferry_operator',
                                'pgferry_dump'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', role);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- made before, or at this moment by somebody else
        END;
    END LOOP;
END
$$;

-- What an earlier version needed and this one does not is taken back.
BEGIN;
REVOKE ALL ON ALL TABLES IN SCHEMA control_plane
    FROM pgferry_gateway, pgferry_exporter, pgferry_uploader, pgferry_operator;

GRANT USAGE ON SCHEMA control_plane
    TO pgferry_gateway, pgferry_exporter, pgferry_uploader, pgferry_operator;

-- Every service: its half of the jobs, its messages, and what it did.
GRANT SELECT, UPDATE ON control_plane.jobs TO pgferry_gateway, pgferry_exporter, pgferry_uploader;
GRANT SELECT, INSERT, UPDATE ON control_plane.outbox TO pgferry_gateway, pgferry_exporter, pgferry_uploader;
GRANT INSERT ON control_plane.audit_log TO pgferry_gateway, pgferry_exporter, pgferry_uploader;
GRANT SELECT ON control_plane.backups, control_plane.backup_parts
    TO pgferry_gateway, pgferry_exporter, pgferry_uploader;

-- Those who accept requests.
GRANT INSERT ON control_plane.jobs TO pgferry_gateway, pgferry_exporter;
GRANT SELECT, INSERT ON control_plane.job_requests TO pgferry_gateway, pgferry_exporter;

-- Whichever service finds a cancelled job of a worker that died says that its parts are to be deleted.
GRANT UPDATE (status, superseded_at) ON control_plane.backup_parts TO pgferry_gateway;

-- The exporter reads which schema a project has, and supersedes what an older dump had sent.
GRANT SELECT ON control_plane.projects TO pgferry_exporter;
GRANT UPDATE (status, superseded_at) ON control_plane.backup_parts TO pgferry_exporter;

-- The uploader records.
GRANT INSERT, UPDATE (status, expiring_at, deleted_at, revision) ON control_plane.backups TO pgferry_uploader;
GRANT INSERT, UPDATE ON control_plane.backup_parts TO pgferry_uploader;
GRANT SELECT, INSERT, UPDATE (found_message_id, resolved_at) ON control_plane.suspected_sends
    TO pgferry_uploader;
GRANT SELECT, INSERT, UPDATE, DELETE ON control_plane.lane_entries TO pgferry_uploader;
GRANT SELECT, INSERT, UPDATE, DELETE ON control_plane.catalogues TO pgferry_uploader;

-- Whoever types `pgferry backups …`, or uses the library: sends files, keeps the record, touches no job.
GRANT SELECT ON control_plane.projects TO pgferry_operator;
GRANT SELECT (id, fence, lease_until, cancel_requested_at) ON control_plane.jobs TO pgferry_operator;
GRANT SELECT, INSERT, UPDATE (status, expiring_at, caption, storage_path, expires_at, revision)
    ON control_plane.backups TO pgferry_operator;
GRANT SELECT, INSERT, UPDATE ON control_plane.backup_parts TO pgferry_operator;
GRANT SELECT (chat_id, message_id, reserved_at, sent_at) ON control_plane.catalogues TO pgferry_operator;
GRANT INSERT ON control_plane.suspected_sends, control_plane.audit_log TO pgferry_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON control_plane.lane_entries TO pgferry_operator;
GRANT SELECT, INSERT, UPDATE ON control_plane.chat_moves TO pgferry_uploader, pgferry_operator;

-- Exporters and uploaders agree on one spool.
GRANT SELECT, INSERT, UPDATE (only_row) ON control_plane.spool TO pgferry_exporter, pgferry_uploader;

-- Exporters and uploaders forget what was kept long enough; the gateway, which strangers speak to, may not.
GRANT DELETE ON control_plane.jobs, control_plane.backup_parts, control_plane.outbox,
    control_plane.audit_log, control_plane.idempotency_keys TO pgferry_exporter, pgferry_uploader;
GRANT SELECT (id, at) ON control_plane.audit_log TO pgferry_exporter, pgferry_uploader;
GRANT SELECT (id, suspected_at), DELETE ON control_plane.suspected_sends TO pgferry_exporter, pgferry_uploader;
GRANT SELECT (project_id, key, expires_at) ON control_plane.idempotency_keys
    TO pgferry_exporter, pgferry_uploader;
COMMIT;
