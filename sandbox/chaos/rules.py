"""What must hold after a seed, rule by rule. Each violation is one line that names the rule and the ids."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sandbox.chaos.evidence import DEAD_QUEUES, LISTENER, Evidence, Letter
from sandbox.chaos.plan import Way
from shared.contracts.catalogue import CATALOGUE_SUFFIX, Catalogue
from shared.contracts.errors import AttemptsExhausted
from shared.contracts.job import FINAL, Status
from shared.contracts.manifest import Manifest
from shared.contracts.messages import BackupFailed, BackupStored
from shared.contracts.topology import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from sandbox.bot_api.store import StoredMessage


_USED_UP: Final = AttemptsExhausted(0).code


class Rule(StrEnum):
    REST = "rest"  #: all comes to rest
    ACCEPTED = "accepted"  #: every accepted request answers with a job in a final state
    ONCE = "once"  #: a message with an id is one request, however often it comes
    UNREADABLE = "unreadable"  #: what nobody can read is kept
    BACKUP = "backup"  #: one backup row per completed job, and no other
    MANIFEST = "manifest"  #: in the chat, recorded, authentic
    PART = "part"  #: each in the chat, with the right hash
    RESTORE = "restore"  #: a sample of backups restores to the right data
    DEAD_LETTER = "dead_letter"  #: exactly the failed jobs
    EVENT = "event"  #: each end of a job is announced to who listens
    QUEUE = "queue"  #: work queues are empty
    PROCESS = "process"  #: none left, none ended by itself, SIGTERM ends with 0
    FILE = "file"
    PREFIX = "prefix"  #: only those of failed jobs inside their keep time
    SESSION = "session"  #: no tenant's session, none idle in transaction
    SURPRISE = "surprise"  #: no error in a log that nobody foresaw
    CATALOGUE = "catalogue"  #: the pinned one is authentic and lists recorded backups, each in its place
    WASTE = "waste"  #: what no backup names in the chat has a row that says so
    TWICE = "twice"  #: kills alone have a document sent again only if its call was under way
    NAMED = "named"  #: kills alone fail a job only when they used up its attempts


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    text: str

    def __str__(self) -> str:
        return f"VIOLATION {self.rule.value}: {self.text}"


def violations(evidence: Evidence) -> list[Violation]:
    return [Violation(rule, text) for rule, judge in _RULES.items() for text in judge(evidence)]


def waste(evidence: Evidence) -> list[StoredMessage]:
    """Documents in the chat that neither a live backup nor a row of a catalogue names."""
    named = {row["message_id"] for row in evidence.catalogues}
    for backup in evidence.backups:
        manifest = evidence.manifests[backup["id"]]
        named.add(backup["manifest_message_id"])
        if isinstance(manifest, Manifest):
            named |= {part.message_id for part in manifest.parts}
    return [
        message for number, message in evidence.chat.items() if number not in named and not message.deleted
    ]


def _rest(evidence: Evidence) -> Iterator[str]:
    yield from evidence.restless


def _accepted(evidence: Evidence) -> Iterator[str]:
    for asked in evidence.accepted:
        if asked.way is Way.GARBAGE:
            continue
        jobs = {asked.job_id} if asked.job_id else evidence.asked_by.get(asked.app_id, set())
        if not jobs:
            yield f"{asked.name} ({asked.way.value}, {asked.project}) was accepted and has no job"
        for job_id in jobs:
            status = evidence.statuses.get(job_id)
            if status not in FINAL:
                yield f"{asked.name} was accepted and job {job_id} answers {status}"


def _once(evidence: Evidence) -> Iterator[str]:
    for asked in evidence.accepted:
        jobs = evidence.asked_by.get(asked.app_id, set())
        if asked.message_id and len(jobs) > 1:
            names = ", ".join(map(str, jobs))
            yield f"{asked.name}, message {asked.message_id}, has {len(jobs)} jobs: {names}"


def _unreadable(evidence: Evidence) -> Iterator[str]:
    kept = len(_distinct(evidence, UNREADABLE.name))
    garbage = [asked for asked in evidence.accepted if asked.way is Way.GARBAGE]
    if kept < len(garbage):
        names = ", ".join(asked.name for asked in garbage)
        yield f"{kept} messages are kept of {len(garbage)} unreadable ones: {names}"


def _backup(evidence: Evidence) -> Iterator[str]:
    recorded = Counter(backup["job_id"] for backup in evidence.backups)
    completed = _ended(evidence, Status.COMPLETED)
    for job_id in completed:
        if recorded[job_id] != 1:
            yield f"job {job_id} is completed and has {recorded[job_id]} backups"
    for backup in evidence.backups:
        if backup["job_id"] not in completed:
            yield f"backup {backup['id']} is of job {backup['job_id']}, which is not completed"


def _manifest(evidence: Evidence) -> Iterator[str]:
    for backup_id, manifest in evidence.manifests.items():
        if isinstance(manifest, str):
            yield f"the manifest of backup {backup_id} {manifest}"
        elif manifest.backup_id != backup_id:
            yield f"the manifest of backup {backup_id} is that of backup {manifest.backup_id}"


def _part(evidence: Evidence) -> Iterator[str]:
    for backup_id, manifest in evidence.manifests.items():
        if isinstance(manifest, str):
            continue
        for part in manifest.parts:
            message = evidence.chat.get(part.message_id)
            what = f"part {part.index} of backup {backup_id}, message {part.message_id},"
            if message is None or message.deleted:
                yield f"{what} is not in the chat"
            elif evidence.contents[message.sha256] != part.sha256:
                yield f"{what} was altered"


def _catalogue(evidence: Evidence) -> Iterator[str]:
    if isinstance(evidence.pinned, str):
        yield f"the pinned document {evidence.pinned}"
    if not isinstance(evidence.pinned, Catalogue):
        return
    recorded = {backup["id"]: backup["manifest_message_id"] for backup in evidence.backups}
    for entry in evidence.pinned.entries:
        if recorded.get(entry.backup_id) != entry.message_id:
            yield f"the catalogue names message {entry.message_id} for backup {entry.backup_id}"


def _restore(evidence: Evidence) -> Iterator[str]:
    for backup_id, differences in evidence.restored.items():
        for difference in differences:
            yield f"backup {backup_id}: {difference}"


def _dead_letter(evidence: Evidence) -> Iterator[str]:
    letters = [letter for queue in DEAD_QUEUES for letter in _distinct(evidence, queue)]
    dead = Counter(letter.job_id for letter in letters)
    failed = _ended(evidence, Status.FAILED)
    for job_id in failed:
        if dead[job_id] != 1:
            yield f"job {job_id} has failed and has {dead[job_id]} dead letters"
    for letter in letters:
        if letter.job_id not in failed:
            yield f"dead letter {letter.message_id} is of job {letter.job_id}, which has not failed"


def _event(evidence: Evidence) -> Iterator[str]:
    announced = Counter((letter.type or "", letter.job_id) for letter in _distinct(evidence, LISTENER))
    expected: Counter[tuple[str, UUID | None]] = Counter(
        [(BackupStored.type, job_id) for job_id in _ended(evidence, Status.COMPLETED)]
        + [(BackupFailed.type, job_id) for job_id in _ended(evidence, Status.FAILED)]
    )
    for kind, job_id in expected.keys() | announced.keys():
        if announced[kind, job_id] != expected[kind, job_id]:
            yield f"{kind} of job {job_id} was announced {announced[kind, job_id]} times"


def _queue(evidence: Evidence) -> Iterator[str]:
    for name, depth in evidence.depths.items():
        if depth:
            yield f"{name} holds {depth} messages"


def _process(evidence: Evidence) -> Iterator[str]:
    yield from (f"left over: {process}" for process in evidence.left.processes)
    for end in evidence.exits:
        yield f"{end.name} ended with {end.code}: …{end.last_words[-400:]!r}"


def _file(evidence: Evidence) -> Iterator[str]:
    yield from evidence.left.files


def _prefix(evidence: Evidence) -> Iterator[str]:
    failed = _ended(evidence, Status.FAILED)
    for job_id in evidence.left.prefixes:
        if job_id not in failed:
            job = evidence.jobs.get(job_id)
            yield f"job {job_id}, {job['status'] if job else 'unknown'}, has files in the spool"


def _session(evidence: Evidence) -> Iterator[str]:
    yield from (f"idle in transaction: {session}" for session in evidence.left.idle_sessions)
    yield from (f"left on the tenants' server: {session}" for session in evidence.left.tenant_sessions)


def _surprise(evidence: Evidence) -> Iterator[str]:
    yield from evidence.surprises


def _waste(evidence: Evidence) -> Iterator[str]:
    """A row names it, to be deleted; or it is of a send whose outcome nobody knows, one for each of these."""
    named = {row["message_id"] for row in evidence.parts}
    unknown = Counter(row["sha256"] for row in evidence.suspected) + Counter(
        row["sha256"] for row in evidence.parts if row["sending_at"] and not row["message_id"]
    )
    unanswered = sum(row["message_id"] is None for row in evidence.catalogues)
    for message in waste(evidence):
        if message.message_id in named:
            continue
        if message.file_name.endswith(CATALOGUE_SUFFIX) and unanswered:
            unanswered -= 1
            continue
        if not unknown[message.sha256]:
            yield f"message {message.message_id}, {message.file_name}: no row names or suspects it"
        unknown[message.sha256] -= 1


def _twice(evidence: Evidence) -> Iterator[str]:
    if evidence.killed is None:
        return
    copies = Counter(message.sha256 for message in evidence.chat.values())
    for message in {message.sha256: message for message in evidence.chat.values()}.values():
        kills = evidence.killed.under_way.get(message.sha256, 0)
        if copies[message.sha256] > 1 + kills:
            yield f"{message.file_name} is {copies[message.sha256]} times in the chat, with {kills} kills"


def _named(evidence: Evidence) -> Iterator[str]:
    if evidence.killed is None:
        return
    for job_id in _ended(evidence, Status.FAILED):
        code, kills = evidence.jobs[job_id]["error_code"], evidence.killed.cut_short.get(job_id, 0)
        if code != _USED_UP or kills < evidence.killed.attempts:
            yield f"job {job_id} failed with {code}, and {kills} of its attempts were cut short"


def _ended(evidence: Evidence, status: Status) -> set[UUID]:
    return {job_id for job_id, job in evidence.jobs.items() if job["status"] == status}


def _distinct(evidence: Evidence, queue: str) -> list[Letter]:
    """A message may be published twice; its id tells."""
    return list({letter.message_id: letter for letter in evidence.letters[queue]}.values())


_RULES: Final[dict[Rule, Callable[[Evidence], Iterator[str]]]] = {
    Rule.REST: _rest,
    Rule.ACCEPTED: _accepted,
    Rule.ONCE: _once,
    Rule.UNREADABLE: _unreadable,
    Rule.BACKUP: _backup,
    Rule.MANIFEST: _manifest,
    Rule.PART: _part,
    Rule.RESTORE: _restore,
    Rule.DEAD_LETTER: _dead_letter,
    Rule.EVENT: _event,
    Rule.QUEUE: _queue,
    Rule.PROCESS: _process,
    Rule.FILE: _file,
    Rule.PREFIX: _prefix,
    Rule.SESSION: _session,
    Rule.SURPRISE: _surprise,
    Rule.CATALOGUE: _catalogue,
    Rule.WASTE: _waste,
    Rule.TWICE: _twice,
    Rule.NAMED: _named,
}
