"""What the tenant's server complains about, and what each complaint means for the job.

`services.exporter.tenant` brings what asyncpg raises, `services.exporter.success` what pg_dump passes on
in its standard error: one table for both, so that a cause has one code, whoever meets it first. What
concerns one project is its job's failure; what concerns the whole server (no way to it, no login, no room
for a session, no fitting client) hands the job back without cost, or one revoked password would bury the
whole backlog.

pg_dump tells no SQLSTATE: on a server that speaks another language its complaints are `pg_dump_failed`.
"""

import re
from dataclasses import dataclass
from enum import Enum

import asyncpg

from shared.contracts.errors import Failure, PermanentError, TemporaryError, Unavailable
from shared.storage.executor import CONNECTION_LOST

_DEPENDENCY = "tenant_database"


class Follows(Enum):
    """What the job does next."""

    FAILS = PermanentError  #: trying again cannot help
    RETRIED = TemporaryError  #: tried again, at the cost of an attempt
    WAITS = Unavailable  #: goes back at no cost, until it is mended


@dataclass(frozen=True, slots=True)
class Complaint:
    code: str
    follows: Follows
    sentence: str  #: `{said}` is the server's own sentence
    words: re.Pattern[str]  #: as pg_dump passes the complaint on
    errors: tuple[type[BaseException], ...] = ()  #: as asyncpg raises it

    def failure(self, said: str) -> Failure:
        sentence = self.sentence.format(said=said)
        match self.follows:
            case Follows.FAILS:
                return PermanentError(self.code, sentence)
            case Follows.RETRIED:
                return TemporaryError(self.code, sentence)
            case Follows.WAITS:
                return Unavailable(_DEPENDENCY, sentence, code=self.code)


#: The first whose words are in a line is meant.
COMPLAINTS = (
    Complaint(
        "row_security",
        Follows.FAILS,
        "Row-level security hides rows from the dump role ({said}): ALTER ROLE … BYPASSRLS, then ask again.",
        re.compile("query would be affected by row-level security policy"),
        (asyncpg.InsufficientPrivilegeError,),
    ),
    Complaint(
        "login_refused",
        Follows.WAITS,
        "The tenant database refused the dump role's login: correct TENANT_DATABASE_URL, the role's password "
        "or pg_hba.conf.",
        re.compile(
            "password authentication failed|no password supplied|no pg_hba.conf entry"
            "|is not permitted to log in|permission denied for database"
        ),
        (asyncpg.InvalidAuthorizationSpecificationError,),
    ),
    Complaint(
        "permission_missing",
        Follows.FAILS,
        "The dump role may not read everything ({said}): grant it as deploy/sql/read_tenants.sql does, "
        "then ask again.",
        re.compile("permission denied for"),
        (asyncpg.InsufficientPrivilegeError,),
    ),
    Complaint(
        "lock_timeout",
        Follows.RETRIED,
        "A table was locked by somebody else for longer than PGFERRY_LOCK_SECONDS.",
        # pg_dump's --lock-wait-timeout is a statement's; it limits no other.
        re.compile("canceling statement due to (lock|statement) timeout|could not obtain lock on"),
        (asyncpg.LockNotAvailableError,),
    ),
    Complaint(
        "deadlock",
        Follows.RETRIED,
        "Somebody altered several tables while we locked them.",
        re.compile("deadlock detected"),
        (asyncpg.DeadlockDetectedError,),
    ),
    Complaint(
        "query_cancelled",
        Follows.RETRIED,
        "Somebody, or a limit on the tenant server, cancelled our query: {said}.",
        re.compile("canceling statement due to"),
        (asyncpg.QueryCanceledError,),
    ),
    Complaint(
        "too_many_connections",
        Follows.WAITS,
        "The tenant server has no connection left for the dump role: raise max_connections or the role's "
        "CONNECTION LIMIT, or lower PGFERRY_DUMPS_PER_SERVER.",
        re.compile("too many clients already|remaining connection slots|too many connections for"),
        (asyncpg.TooManyConnectionsError,),
    ),
    Complaint(
        "tmp_full",
        Follows.RETRIED,
        "pg_dump found no room in /tmp: make room there, or ask for format sql.",
        # Not the server's words; and pg_dump's output, a pipe, has no end of room.
        re.compile("^pg_dump: error: could not write to output file: No space left on device"),
    ),
    Complaint(
        "server_exhausted",
        Follows.RETRIED,
        "The tenant server ran out of memory, locks or disk: {said}.",
        re.compile("(ERROR|FATAL): .*(out of shared memory|out of memory|No space left on device)"),
        (asyncpg.InsufficientResourcesError,),
    ),
    Complaint(
        "database_missing",
        Follows.WAITS,
        "The tenant database does not exist: correct TENANT_DATABASE_URL.",
        re.compile('database "[^"]*" does not exist'),
        (asyncpg.InvalidCatalogNameError,),
    ),
    Complaint(
        "client_missing",
        Follows.WAITS,
        "The server is newer than this pg_dump: install the server's own major, or a newer one, "
        "in PG_BIN_DIRS.",
        re.compile("aborting because of server version mismatch"),
    ),
    Complaint(
        "tenant_database_unavailable",
        Follows.WAITS,
        "The tenant database is not reachable: {said}.",
        re.compile(
            "the database system is|connection to server .* failed|could not translate host name",
        ),
        (asyncpg.CannotConnectNowError,),
    ),
    Complaint(
        "tables_changed",
        Follows.RETRIED,
        "Tables were dropped or renamed meanwhile.",
        re.compile('(relation|schema) "[^"]*" does not exist|could not open relation with OID'),
        (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError),
    ),
    Complaint(
        "server_gone",
        Follows.RETRIED,
        "The tenant server ended our session, or does not answer any more: {said}.",
        re.compile(
            "terminating connection|server closed the connection|connection to server was lost"
            "|no connection to the server|could not receive data from server|could not send data to server"
            "|SSL SYSCALL error|SSL connection has been closed|invalid snapshot identifier"
            "|could not import the requested snapshot"
        ),
        (*CONNECTION_LOST, TimeoutError, asyncpg.OperatorInterventionError),
    ),
    Complaint(
        "server_error",
        Follows.RETRIED,
        "The tenant server refused a query: {said}.",
        re.compile(r"(?!)"),  # whatever else pg_dump passes on is `pg_dump_failed`
        (asyncpg.PostgresError,),
    ),
)

#: What only says which statement was meant follows these, and may hold anything.
_STATEMENT = re.compile("(Query|Command) was:")
_SEVERITY = re.compile(r".*(?:ERROR|FATAL|PANIC): +|pg_dump: (?:error|detail): ")
_BY_CODE = {complaint.code: complaint for complaint in COMPLAINTS}

#: What asyncpg raises when the server complains or is gone.
SERVER_ERRORS = tuple({error for complaint in COMPLAINTS for error in complaint.errors})


def failure_of(error: BaseException) -> Failure:
    """Of what was raised within a session."""
    said = _said(error)
    kinds = [complaint for complaint in COMPLAINTS if isinstance(error, complaint.errors)]
    named = [complaint for complaint in kinds if complaint.words.search(said)]
    specific = [complaint for complaint in kinds if complaint.code != "server_error"]
    return (named or specific[-1:] or kinds)[0].failure(said)


def refusal_of(error: BaseException) -> Failure:
    """Of what was raised instead of a session: it concerns every job on that server."""
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return _BY_CODE["login_refused"].failure("")
    failure = failure_of(error)
    if isinstance(failure, Unavailable):
        return failure
    return _BY_CODE["tenant_database_unavailable"].failure(type(error).__name__)


def complaint_of(exit_code: int, stderr: str) -> Failure:
    """Of a pg_dump that failed."""
    lines = _STATEMENT.split(stderr)[0].splitlines()
    for line in lines:
        for complaint in COMPLAINTS:
            if complaint.words.search(line):
                return complaint.failure(_passed_on(complaint, line))
    return TemporaryError("pg_dump_failed", f"pg_dump ended with {exit_code}: {_first_error(lines)}")


def _passed_on(complaint: Complaint, line: str) -> str:
    """The server's sentence; of a connection that failed only that, as the line holds the address."""
    if complaint.code == "tenant_database_unavailable":
        return "pg_dump could not connect"
    return _SEVERITY.sub("", line).rstrip(".")


def _said(error: BaseException) -> str:
    """The server's sentence without details and hints; of other errors the name, as texts hold addresses."""
    if isinstance(error, asyncpg.PostgresError) and error.args:
        return str(error.args[0]).rstrip(".")
    return type(error).__name__


def _first_error(lines: list[str]) -> str:
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "no message")
