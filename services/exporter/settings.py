"""The exporter's settings; see `shared.runtime.settings` for how they are read."""

from typing import Annotated

import pyrage
from pydantic import Field, ValidationInfo, field_validator

from services.worker_settings import WorkerProcessSettings
from shared.runtime.settings import Separated, Url

MIB = 1024 * 1024
GIB = 1024 * MIB


class ExporterSettings(WorkerProcessSettings):
    tenant_database_url: Url | None = Field(
        default=None, alias="TENANT_DATABASE_URL", pattern=r"^postgres(ql)?://"
    )
    """The tenants' database as the read-only role `pgferry_dump`; set it also when that is the same database,
    since the exporter's own role may read no tenant. Unless set, DATABASE_URL is used."""

    pg_bin_dirs: str = Field(default="/usr/lib/postgresql/*/bin", alias="PG_BIN_DIRS")
    """Colon-separated globs of folders with `pg_dump`."""

    age_recipients: Annotated[tuple[str, ...], *Separated] = Field(default=(), alias="PGFERRY_AGE_RECIPIENTS")
    """age public keys; every dump is encrypted for all of them. Required unless PGFERRY_ALLOW_UNENCRYPTED."""

    allow_unencrypted: bool = Field(default=False, alias="PGFERRY_ALLOW_UNENCRYPTED", validate_default=True)
    """Lets an exporter run without recipients: whoever reads the chat reads the data."""

    slots: int = Field(default=5, ge=1, le=64, alias="PGFERRY_EXPORTER_SLOTS")
    """Jobs at once in this process."""

    dumps_per_server: int = Field(default=5, ge=1, le=1000, alias="PGFERRY_DUMPS_PER_SERVER")
    """Jobs at once in all exporters together: each keeps two sessions of the tenants' server busy. As many as
    one process has slots, so that a second one stands by and adds no load; give all processes the same."""

    part_size_bytes: int = Field(default=19 * MIB, ge=64 * 1024, le=20 * MIB, alias="PGFERRY_PART_SIZE_BYTES")
    """Largest part: a bot gets back at most 20 MiB of what it sent."""

    lock_seconds: float = Field(default=30, gt=0, le=600, alias="PGFERRY_LOCK_SECONDS")
    """How long to wait for a table that somebody alters; longer would queue its readers behind us."""

    answer_seconds: float = Field(default=60, gt=0, le=3600, alias="PGFERRY_ANSWER_SECONDS")
    """How long the tenants' server may take for one look at its catalogue; after it a new connection asks
    once more."""

    dump_seconds: float = Field(default=1800, gt=0, le=86400, alias="PGFERRY_DUMP_SECONDS")
    """The longest a dump may take."""

    max_raw_bytes: int = Field(default=10 * GIB, ge=1, alias="PGFERRY_MAX_RAW_BYTES")
    """The largest dump before compression; a larger one fails its job."""

    max_stored_bytes: int = Field(default=10 * GIB, ge=1, alias="PGFERRY_MAX_STORED_BYTES")
    """The largest dump as it is stored; a larger one fails its job."""

    spool_floor_bytes: int = Field(default=512 * MIB, ge=0, alias="PGFERRY_SPOOL_FLOOR_BYTES")
    """What a dump leaves free on the spool's volume; where less is free the job is tried again later."""

    tmp_floor_bytes: int = Field(default=256 * MIB, ge=0, alias="PGFERRY_TMP_FLOOR_BYTES")
    """What a dump in format `tar` leaves free in /tmp, where pg_dump puts each table before it sends it."""

    keep_failed_hours: float = Field(default=24, gt=0, le=8760, alias="PGFERRY_KEEP_FAILED_HOURS")
    """How long a failed job's dump stays in the spool for a requeue; then its parts in the chat are given up.
    A folder of a job that the database does not know is kept as long."""

    admin_port: int = Field(default=9102, ge=0, le=65535, alias="PGFERRY_ADMIN_PORT")
    """Where health and metrics are."""

    @field_validator("age_recipients")
    @classmethod
    def _recipients_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, recipient in enumerate(value, start=1):
            try:
                pyrage.x25519.Recipient.from_str(recipient)
            except pyrage.RecipientError:
                raise ValueError(f"entry {number} is not an age public key (age1…)") from None
        return value

    @field_validator("allow_unencrypted")
    @classmethod
    def _encrypted_or_said_not_to_be(cls, allowed: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's
        # Recipients that were refused are not in `data`; that is said already.
        if not allowed and info.data.get("age_recipients", "refused") == ():
            raise ValueError(
                "set PGFERRY_AGE_RECIPIENTS to the age public keys to encrypt for "
                "(`pgferry keys generate` makes a pair), or this to true"
            )
        return allowed

    @property
    def tenants(self) -> str:
        return self.tenant_database_url or self.database_url
