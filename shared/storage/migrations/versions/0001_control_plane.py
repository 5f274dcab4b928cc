"""The control plane: jobs, requests, backups, parts, lanes, outbox, notifications, audit.

All columns that the design knows are here, so that later work adds code and not rewrites.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A platform may already have this table; then only `id` (text or uuid) and `slug` are needed of it.
PROJECTS = """
    CREATE TABLE IF NOT EXISTS control_plane.projects (
        id          text PRIMARY KEY,
        slug        text UNIQUE NOT NULL,
        name        text,
        status      text NOT NULL DEFAULT 'active',
        created_at  timestamptz NOT NULL DEFAULT now()
    )
"""

JOBS = """
    CREATE TABLE control_plane.jobs (
        id                  uuid PRIMARY KEY,
        project_id          text NOT NULL,
        status              text NOT NULL DEFAULT 'pending'
            CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
        stage               text NOT NULL DEFAULT 'queued'
            CHECK (stage IN ('queued', 'dumping', 'dumped', 'uploading', 'stored')),
        priority            smallint NOT NULL DEFAULT 1,
        format              text NOT NULL,
        compression         text NOT NULL,
        filename            text,
        caption             text,
        storage_path        text,
        expires_in_days     integer,
        options_hash        bytea NOT NULL,

        owner               text,
        fence               bigint NOT NULL DEFAULT 0,
        lease_until         timestamptz,
        run_after           timestamptz NOT NULL DEFAULT now(),
        cancel_requested_at timestamptz,
        dump_attempts       integer NOT NULL DEFAULT 0,
        upload_attempts     integer NOT NULL DEFAULT 0,
        replay_count        integer NOT NULL DEFAULT 0,

        dump_fence          bigint,
        dump                jsonb,
        progress            jsonb,
        backup_id           uuid,
        error_code          text,
        error_message       text,
        first_failed_at     timestamptz,
        last_failed_at      timestamptz,
        command             bytea NOT NULL,
        traceparent         text,

        created_at          timestamptz NOT NULL DEFAULT now(),
        started_at          timestamptz,
        claimed_at          timestamptz,
        dumped_at           timestamptz,
        finished_at         timestamptz,
        revision            bigint NOT NULL DEFAULT 0,

        CHECK ((status = 'completed') = (stage = 'stored')),
        CHECK (status <> 'pending' OR stage = 'queued'),
        CHECK (stage NOT IN ('dumped', 'uploading', 'stored') OR dump_fence IS NOT NULL),
        CHECK (lease_until IS NULL OR status = 'running')
    )
"""

JOB_INDEXES = (
    # One running job per project: binds the step pending -> running, and retry waits keep it.
    "CREATE UNIQUE INDEX jobs_running_unique ON control_plane.jobs (project_id) WHERE status = 'running'",
    # A pending job is the one place that equal requests coalesce onto.
    "CREATE UNIQUE INDEX jobs_pending_unique ON control_plane.jobs (project_id, options_hash)"
    " WHERE status = 'pending'",
    "CREATE INDEX jobs_claim ON control_plane.jobs (priority, run_after)"
    " WHERE status IN ('pending', 'running')",
    "CREATE INDEX jobs_project_claimed ON control_plane.jobs (project_id, claimed_at DESC)",
    "CREATE INDEX jobs_project_created ON control_plane.jobs (project_id, created_at DESC, id)",
    "CREATE INDEX jobs_created ON control_plane.jobs (created_at DESC, id)",
    "CREATE INDEX jobs_finished ON control_plane.jobs (finished_at) WHERE finished_at IS NOT NULL",
)

JOB_REQUESTS = """
    CREATE TABLE control_plane.job_requests (
        request_id   uuid PRIMARY KEY,
        job_id       uuid NOT NULL REFERENCES control_plane.jobs (id) ON DELETE CASCADE,
        project_id   text NOT NULL,
        notify_email text,
        source       text NOT NULL,
        created_at   timestamptz NOT NULL DEFAULT now()
    )
"""

IDEMPOTENCY_KEYS = """
    CREATE TABLE control_plane.idempotency_keys (
        project_id   text NOT NULL,
        key          text NOT NULL,
        request_hash bytea NOT NULL,
        request_id   uuid NOT NULL,
        job_id       uuid NOT NULL REFERENCES control_plane.jobs (id) ON DELETE CASCADE,
        created_at   timestamptz NOT NULL DEFAULT now(),
        expires_at   timestamptz NOT NULL,
        PRIMARY KEY (project_id, key)
    )
"""

BACKUPS = """
    CREATE TABLE control_plane.backups (
        id                    uuid PRIMARY KEY,
        project_id            text NOT NULL,
        job_id                uuid UNIQUE,
        dump_fence            bigint,
        type                  text NOT NULL DEFAULT 'database'
            CHECK (type IN ('database', 'storage', 'logs')),
        status                text NOT NULL DEFAULT 'stored'
            CHECK (status IN ('stored', 'expiring', 'deleted', 'remote_remains', 'lost')),
        format                text,
        compression           text,
        encryption            text,
        size_bytes            bigint NOT NULL,
        sha256                text NOT NULL,
        plain_size_bytes      bigint,
        plain_sha256          text,
        part_count            integer NOT NULL,
        table_count           integer,
        row_count             bigint,
        server_version        text,
        client_version        text,
        filename              text NOT NULL,
        caption               text,
        storage_path          text,
        bot_id                bigint NOT NULL,
        chat_id               bigint NOT NULL,
        manifest_message_id   bigint,
        manifest_file_id      text,
        manifest_sha256       text,
        adopted               boolean NOT NULL DEFAULT false,
        created_at            timestamptz NOT NULL DEFAULT now(),
        snapshot_at           timestamptz,
        expires_at            timestamptz,
        expiring_at           timestamptz,
        deleted_at            timestamptz,
        last_verified_at      timestamptz,
        revision              bigint NOT NULL DEFAULT 0
    )
"""

BACKUP_INDEXES = (
    "CREATE INDEX backups_project_created ON control_plane.backups (project_id, created_at DESC, id)",
    "CREATE INDEX backups_created ON control_plane.backups (created_at DESC, id)",
    "CREATE INDEX backups_expiry ON control_plane.backups (expires_at) WHERE status = 'stored'",
)

BACKUP_PARTS = """
    CREATE TABLE control_plane.backup_parts (
        job_id         uuid NOT NULL,
        dump_fence     bigint NOT NULL,
        kind           text NOT NULL CHECK (kind IN ('part', 'manifest')),
        index          integer NOT NULL,
        status         text NOT NULL DEFAULT 'planned'
            CHECK (status IN ('planned', 'sending', 'sent', 'superseded', 'deleted', 'remote_remains')),
        size_bytes     bigint NOT NULL,
        sha256         text NOT NULL,
        bot_id         bigint,
        chat_id        bigint,
        message_id     bigint,
        file_id        text,
        file_unique_id text,
        send_attempts  integer NOT NULL DEFAULT 0,
        sending_at     timestamptz,
        sent_at        timestamptz,
        superseded_at  timestamptz,
        removed_at     timestamptz,
        PRIMARY KEY (job_id, dump_fence, kind, index),
        CHECK (status <> 'sent' OR (message_id IS NOT NULL AND file_id IS NOT NULL))
    )
"""

BACKUP_PARTS_SUPERSEDED = """
    CREATE INDEX backup_parts_superseded ON control_plane.backup_parts (superseded_at)
        WHERE status = 'superseded'
"""

SUSPECTED_SENDS = """
    CREATE TABLE control_plane.suspected_sends (
        id                    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id                uuid NOT NULL,
        dump_fence            bigint NOT NULL,
        kind                  text NOT NULL,
        index                 integer NOT NULL,
        bot_id                bigint NOT NULL,
        chat_id               bigint NOT NULL,
        size_bytes            bigint NOT NULL,
        sha256                text NOT NULL,
        last_known_message_id bigint,
        suspected_at          timestamptz NOT NULL DEFAULT now(),
        found_message_id      bigint,
        resolved_at           timestamptz
    )
"""

SUSPECTED_SENDS_OPEN = """
    CREATE INDEX suspected_sends_open ON control_plane.suspected_sends (chat_id, suspected_at)
        WHERE resolved_at IS NULL
"""

LANE_ENTRIES = """
    CREATE TABLE control_plane.lane_entries (
        id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        bot_id      bigint NOT NULL,
        chat_id     bigint NOT NULL,
        state       text NOT NULL CHECK (state IN ('waiting', 'open', 'ended', 'closed')),
        job_id      uuid,
        owner       text NOT NULL,
        size_bytes  bigint,
        waiting_at  timestamptz NOT NULL DEFAULT now(),
        opened_at   timestamptz,
        ended_at    timestamptz,
        lease_until timestamptz,
        closed_until timestamptz
    )
"""

LANE_ENTRY_INDEXES = (
    "CREATE INDEX lane_entries_lane ON control_plane.lane_entries (bot_id, chat_id, state, ended_at)",
    "CREATE UNIQUE INDEX lane_entries_one_waiting ON control_plane.lane_entries (bot_id, chat_id, job_id)"
    " WHERE state = 'waiting'",
)

OUTBOX = """
    CREATE TABLE control_plane.outbox (
        id             uuid PRIMARY KEY,
        sequence       bigint GENERATED ALWAYS AS IDENTITY,
        exchange       text NOT NULL,
        routing_key    text NOT NULL,
        message_type   text NOT NULL,
        content_type   text NOT NULL DEFAULT 'application/json',
        body           bytea NOT NULL,
        headers        jsonb NOT NULL DEFAULT '{}',
        correlation_id uuid,
        created_at     timestamptz NOT NULL DEFAULT now(),
        run_after      timestamptz NOT NULL DEFAULT now(),
        attempts       integer NOT NULL DEFAULT 0,
        last_error     text,
        sent_at        timestamptz
    )
"""

OUTBOX_INDEXES = (
    "CREATE INDEX outbox_unsent ON control_plane.outbox (run_after, sequence) WHERE sent_at IS NULL",
    "CREATE INDEX outbox_sent ON control_plane.outbox (sent_at) WHERE sent_at IS NOT NULL",
)

NOTIFICATIONS = """
    CREATE TABLE control_plane.notifications (
        event_id    uuid NOT NULL,
        address     text NOT NULL,
        claimed_at  timestamptz NOT NULL DEFAULT now(),
        lease_until timestamptz,
        attempts    integer NOT NULL DEFAULT 0,
        run_after   timestamptz NOT NULL DEFAULT now(),
        last_error  text,
        sent_at     timestamptz,
        PRIMARY KEY (event_id, address)
    )
"""

# One row: the marker of the folder that all exporters and uploaders share.
SPOOL = """
    CREATE TABLE control_plane.spool (
        only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        marker     uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
"""

AUDIT_LOG = """
    CREATE TABLE control_plane.audit_log (
        id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at         timestamptz NOT NULL DEFAULT now(),
        actor      text NOT NULL,
        action     text NOT NULL,
        project_id text,
        job_id     uuid,
        backup_id  uuid,
        request_id uuid,
        client     text,
        detail     jsonb NOT NULL DEFAULT '{}'
    )
"""

AUDIT_LOG_INDEXES = (
    "CREATE INDEX audit_log_project ON control_plane.audit_log (project_id, at DESC)",
    "CREATE INDEX audit_log_at ON control_plane.audit_log (at)",
)


def upgrade() -> None:
    for statement in (
        PROJECTS,
        JOBS,
        *JOB_INDEXES,
        JOB_REQUESTS,
        "CREATE INDEX job_requests_job ON control_plane.job_requests (job_id)",
        IDEMPOTENCY_KEYS,
        "CREATE INDEX idempotency_keys_expiry ON control_plane.idempotency_keys (expires_at)",
        BACKUPS,
        *BACKUP_INDEXES,
        BACKUP_PARTS,
        BACKUP_PARTS_SUPERSEDED,
        SUSPECTED_SENDS,
        SUSPECTED_SENDS_OPEN,
        LANE_ENTRIES,
        *LANE_ENTRY_INDEXES,
        OUTBOX,
        *OUTBOX_INDEXES,
        NOTIFICATIONS,
        SPOOL,
        AUDIT_LOG,
        *AUDIT_LOG_INDEXES,
    ):
        op.execute(statement)
