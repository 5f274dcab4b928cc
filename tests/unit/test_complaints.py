"""Complaints in pg_dump's words, as versions 15 to 18 write them, get the names of asyncpg's errors."""

import asyncpg
import pytest

from services.exporter.complaints import COMPLAINTS, Follows, complaint_of, failure_of, refusal_of
from shared.contracts.errors import PermanentError, TemporaryError, Unavailable

FAILED = 'pg_dump: error: connection to server at "10.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        ("pg_dump: error: query failed: ERROR:  permission denied for table notes", "permission_missing"),
        (
            'pg_dump: error: Dumping the contents of table "notes" failed: PQgetResult() failed.\n'
            "pg_dump: detail: Error message from server: ERROR:  query would be affected by row-level "
            'security policy for table "notes"\npg_dump: detail: Command was: COPY x TO stdout;',
            "row_security",
        ),
        ("pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout", "lock_timeout"),
        (
            "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout",
            "lock_timeout",
        ),
        ("pg_dump: error: query failed: ERROR:  deadlock detected\nDETAIL:  Process 1 waits", "deadlock"),
        ("pg_dump: error: query failed: ERROR:  canceling statement due to user request", "query_cancelled"),
        (FAILED + "FATAL:  sorry, too many clients already", "too_many_connections"),
        (FAILED + "FATAL:  remaining connection slots are reserved for roles", "too_many_connections"),
        (FAILED + 'FATAL:  password authentication failed for user "pgferry_dump"', "login_refused"),
        (FAILED + "FATAL:  no pg_hba.conf entry for host", "login_refused"),
        (FAILED + 'FATAL:  database "t" does not exist', "database_missing"),
        (FAILED + "Connection refused\n\tIs the server running?", "tenant_database_unavailable"),
        (FAILED + "FATAL:  the database system is starting up", "tenant_database_unavailable"),
        ("pg_dump: error: aborting because of server version mismatch", "client_missing"),
        (
            "pg_dump: error: query failed: ERROR:  out of shared memory\nHINT:  You might need",
            "server_exhausted",
        ),
        (
            'pg_dump: error: query failed: ERROR:  could not write to file "base/pgsql_tmp": '
            "No space left on device",
            "server_exhausted",
        ),
        ("pg_dump: error: could not write to output file: No space left on device", "tmp_full"),
        ('pg_dump: error: query failed: ERROR:  relation "a.b" does not exist', "tables_changed"),
        (
            "pg_dump: error: query failed: FATAL:  terminating connection due to administrator command",
            "server_gone",
        ),
        (
            "pg_dump: error: query failed: server closed the connection unexpectedly\n\tThis probably means",
            "server_gone",
        ),
        ('pg_dump: error: query failed: ERROR:  invalid snapshot identifier: "0-1"', "server_gone"),
        (
            "pg_dump: error: something new\npg_dump: detail: Query was: SELECT 'deadlock detected'",
            "pg_dump_failed",
        ),
        ("", "pg_dump_failed"),
    ],
)
def test_a_complaint_of_pg_dump_has_its_code(stderr: str, code: str) -> None:
    """What was queried names nothing; addresses are not told."""
    failure = complaint_of(1, stderr)

    assert failure.code == code
    assert "10.0.0.1" not in failure.sentence


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (asyncpg.OutOfMemoryError("out of shared memory"), "server_exhausted", TemporaryError),
        (asyncpg.DiskFullError("could not write to file"), "server_exhausted", TemporaryError),
        (asyncpg.InsufficientPrivilegeError("keine Berechtigung"), "permission_missing", PermanentError),
        (asyncpg.CrashShutdownError("terminating connection"), "server_gone", TemporaryError),
        (ConnectionResetError(), "server_gone", TemporaryError),
        (TimeoutError(), "server_gone", TemporaryError),
        (asyncpg.DataCorruptedError("invalid page in block 7"), "server_error", TemporaryError),
    ],
)
def test_an_error_within_a_session_has_its_code(error: Exception, code: str, kind: type[Exception]) -> None:
    """In another language, too: then by its SQLSTATE alone."""
    failure = failure_of(error)

    assert (failure.code, type(failure)) == (code, kind)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (asyncpg.InvalidPasswordError("password authentication failed"), "login_refused"),
        (asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry"), "login_refused"),
        (asyncpg.InsufficientPrivilegeError("permission denied for database"), "login_refused"),
        (asyncpg.InvalidCatalogNameError("nix da"), "database_missing"),
        (asyncpg.TooManyConnectionsError("too many clients already"), "too_many_connections"),
        (asyncpg.CannotConnectNowError("starting up"), "tenant_database_unavailable"),
        (asyncpg.OutOfMemoryError("out of memory"), "tenant_database_unavailable"),
        (ConnectionRefusedError(111, "10.0.0.1"), "tenant_database_unavailable"),
    ],
)
def test_whatever_refuses_a_session_costs_nothing(error: Exception, code: str) -> None:
    """It concerns every project of that server."""
    failure = refusal_of(error)

    assert isinstance(failure, Unavailable)
    assert failure.code == code
    assert "10.0.0.1" not in failure.sentence


def test_each_code_is_in_the_table_once() -> None:
    assert len({complaint.code for complaint in COMPLAINTS}) == len(COMPLAINTS)
    assert {complaint.follows for complaint in COMPLAINTS} == {*Follows}
