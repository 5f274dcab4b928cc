"""Writes down what a good dump is: `dump.json`, with the facts encrypted like the data."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyrage

from services.exporter.facts import Found, Warned
from services.exporter.pg_dump import DumpCommand
from services.exporter.snapshot import Snapshot
from services.exporter.stages import parsed_recipients
from services.exporter.success import Streamed
from shared.contracts.job import Claim
from shared.contracts.manifest import Dump, Encryption, TableRows


@dataclass(frozen=True, slots=True)
class Encrypted:
    """For whom; without recipients nothing is encrypted."""

    recipients: Sequence[str]

    @property
    def description(self) -> Encryption | None:
        if not self.recipients:
            return None
        return Encryption(recipients=tuple(fingerprint(recipient) for recipient in self.recipients))

    def sealed(self, text: str) -> str:
        if not self.recipients:
            return text
        sealed = pyrage.encrypt(text.encode(), parsed_recipients(self.recipients))
        return base64.b64encode(sealed).decode()


def describe(
    claim: Claim,
    command: DumpCommand,
    snapshot: Snapshot,
    streamed: Streamed,
    *,
    found: Found,
    encrypted: Encrypted,
    duration_seconds: float,
) -> Dump:
    server = snapshot.connection.get_server_version()
    complaints = [Warned("pg_dump_said", line) for line in streamed.stderr.splitlines()]
    facts = found.facts.model_copy(
        update={
            "tables": tuple(TableRows(name=name, rows=count) for name, count in found.rows.items()),
            "warnings": tuple(warned.sentence for warned in (*found.warnings, *complaints)),
        }
    )
    return Dump(
        job_id=claim.job_id,
        dump_fence=claim.fence,
        project_id=claim.project_id,
        schema_name=snapshot.schema,
        format=claim.options.format,
        compression=claim.options.compression,
        encryption=encrypted.description,
        snapshot_at=snapshot.taken_at,
        duration_seconds=round(duration_seconds, 3),
        server_version=f"{server.major}.{server.micro}",
        client_version=command.client.version,
        plain=streamed.plain.plain,
        stored=streamed.cut.stored,
        parts=tuple(streamed.cut.parts),
        tables=len(found.rows),
        rows=sum(found.rows.values()),
        warnings=found.counted(*complaints),
        facts=encrypted.sealed(facts.model_dump_json()),
    )


def fingerprint(recipient: str) -> str:
    """Enough to find the right key among several: 16 hex digits of SHA-256."""
    return hashlib.sha256(recipient.encode()).hexdigest()[:16]
