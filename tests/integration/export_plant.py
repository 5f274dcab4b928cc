"""An exporter's use case on a real tenant server, with claims as a worker takes them, and without a broker.

`pg_dump` may be a program of the test that holds the real one at a point, or spoils what it says.
"""

import base64
import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pyrage
import pytest

from sandbox.postgres import newest_bin_directory
from sandbox.process import children_of
from sandbox.restore import Fetched
from sandbox.stack import allow_dump
from sandbox.tenants import create_small_tenant
from services.exporter.export import Export
from services.exporter.pg_dump import find_clients
from services.exporter.settings import ExporterSettings
from shared.contracts.errors import Failure
from shared.contracts.job import Claim, ExportOptions, Format, Stage, StageGroup
from shared.contracts.manifest import Facts
from shared.runtime.settings import load
from shared.runtime.worker import Progress
from shared.storage.database import Database, open_database
from shared.storage.requests import Request, Source, accept
from shared.storage.spool import MARKER, Prefix, Spool, open_spool
from tests.waiting import eventually

REAL = newest_bin_directory() / "pg_dump"
DECOMPRESS = {"zstd": "zstd -d", "gzip": "gzip -d", "none": None}

_SESSIONS = """
    SELECT pid, wait_event_type, query FROM pg_stat_activity
     WHERE datname = current_database() AND application_name LIKE 'pgferry:%'
"""

_END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name LIKE 'pgferry:%' AND query LIKE $1
"""

_EMPTY = """
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT format('%I', nspname) FROM pg_namespace
                     WHERE nspname !~ '^pg_' AND nspname NOT IN ('control_plane', 'information_schema') LOOP
            EXECUTE 'DROP SCHEMA ' || name || ' CASCADE';
        END LOOP;
        FOR name IN SELECT tablename FROM pg_tables
                     WHERE schemaname = 'control_plane' AND tablename <> 'alembic_version' LOOP
            EXECUTE 'DELETE FROM control_plane.' || name;
        END LOOP;
    END
    $$;
    CREATE SCHEMA public
"""

#: For the tenant `demo`: tables that are rare, and names, rows and a body that look like something else.
UNUSUAL = r"""
    CREATE TABLE tenant_demo.no_columns ();
    INSERT INTO tenant_demo.no_columns SELECT FROM generate_series(1, 5);
    CREATE TABLE tenant_demo.one_column_left (a int, b int);
    INSERT INTO tenant_demo.one_column_left VALUES (1, 2), (NULL, NULL);
    ALTER TABLE tenant_demo.one_column_left DROP COLUMN a;
    CREATE TABLE tenant_demo.generated (a int GENERATED ALWAYS AS (1) STORED);
    INSERT INTO tenant_demo.generated DEFAULT VALUES;
    CREATE UNLOGGED TABLE tenant_demo.unlogged AS SELECT 1 AS one;
    CREATE TABLE tenant_demo.parent (a int);
    CREATE TABLE tenant_demo.child () INHERITS (tenant_demo.parent);
    INSERT INTO tenant_demo.child VALUES (1), (2);
    CREATE TABLE tenant_demo."ta""ble; --'
    COPY" ("co""l;" text);
    INSERT INTO tenant_demo."ta""ble; --'
    COPY" VALUES (E'\\.\n\\.'), (E'a\n\\.\nb'), ('\.'), (NULL), ('');
    CREATE VIEW tenant_demo.strings AS SELECT E'it''s \\'' ;' AS "e'", '/*' AS "$a$", '--' AS c;
    CREATE FUNCTION tenant_demo.f() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN $$
COPY "tenant_demo"."fake" ("c") FROM stdin;
1
\.
$$; /* ' */ END $f$;
"""


@dataclass(slots=True)
class Gate:
    """A point where a program waits: `read < "$GATE"` in its script."""

    path: Path
    _writer: int | None = None

    async def reached(self) -> None:
        """Return when the program waits there."""
        await eventually(self._someone_reads)

    async def _someone_reads(self) -> bool:
        try:
            self._writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def open(self) -> None:
        """Let the program go on."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None


@dataclass(frozen=True, slots=True)
class Plant:
    """One exporter with a control plane, a tenant server and a spool of its own."""

    owner: asyncpg.Connection  #: of the database that holds control plane and tenants
    database: Database  #: as the exporter's role
    environment: dict[str, str]
    spool: Spool
    folder: Path
    identity: pyrage.x25519.Identity = field(default_factory=pyrage.x25519.Identity.generate)

    async def add_tenant(self, slug: str = "acme", *, rows: int = 200) -> None:
        """A small tenant that is its project's, readable for the dump role."""
        await create_small_tenant(self.owner, slug=slug, rows=rows)
        await allow_dump(self.owner, f"tenant_{slug}")
        await self.add_project(slug)

    async def add_project(self, slug: str, *, project_id: str | None = None) -> None:
        await self.owner.execute(
            "INSERT INTO control_plane.projects (id, slug) VALUES ($1, $2)", project_id or slug, slug
        )

    async def claim(self, project_id: str = "acme", **options: str) -> Claim:
        """Ask for an export, and hold its job."""
        request = Request(
            request_id=uuid4(),
            options=ExportOptions.model_validate({"project_id": project_id, **options}),
            source=Source.AMQP,
            actor="test",
            announce=False,
        )
        await accept(self.database, request)
        return await self.claim_again()

    async def claim_again(self) -> Claim:
        async with self.database.session() as session:
            claim = await session.jobs.claim(StageGroup.DUMP, owner="test", lease_seconds=60)
        assert claim is not None
        return claim

    async def put_back(self, claim: Claim, error: Failure) -> Claim:
        """End the attempt as the worker does, and begin the next without waiting."""
        async with self.database.session() as session:
            await session.jobs.retry(
                claim, stage=Stage.QUEUED, delay_seconds=0, code=error.code, sentence=error.sentence
            )
        return await self.claim_again()

    def export(self, **environment: str) -> Export:
        """The use case with these settings changed."""
        own = {"PGFERRY_AGE_RECIPIENTS": str(self.identity.to_public()), **self.environment}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**own, **environment}.items():
                patch.setenv(name, value)
            settings = load(ExporterSettings)
        return Export(self.database, self.spool, find_clients(settings.pg_bin_dirs), settings)

    async def attempt(self, claim: Claim, **environment: str) -> None:
        await self.export(**environment)(claim, Progress())

    async def failure(self, claim: Claim, **environment: str) -> Failure:
        """How the attempt fails; it must have left no file, and the job must still be ours."""
        failure = await failure_of(self.attempt(claim, **environment))
        assert self.files() == []
        async with self.database.session() as session:
            await session.jobs.renew(claim)
        return failure

    def files(self) -> list[str]:
        """What is in the spool, folders included."""
        return sorted(
            str(path.relative_to(self.spool.root))
            for path in self.spool.root.rglob("*")
            if path.name != MARKER
        )

    def prefix(self, claim: Claim) -> Prefix:
        return self.spool.prefix(claim.job_id, claim.fence)

    def facts(self, claim: Claim) -> Facts:
        """Of an encrypted dump."""
        sealed = base64.b64decode(self.prefix(claim).read_dump().facts, validate=True)
        return Facts.model_validate_json(pyrage.decrypt(sealed, [self.identity]))

    def fetched(self, claim: Claim, *, encrypted: bool = True) -> Fetched:
        """The claim's dump, for standard tools."""
        key = self.folder / "key"
        key.write_text(str(self.identity), encoding="ascii")
        decompress = DECOMPRESS[claim.options.compression.value]
        is_archive = claim.options.format is Format.TAR
        return Fetched(self.prefix(claim).path, key if encrypted else None, decompress, is_archive)

    def pg_dump(self, script: str, *, gate: Gate | None = None) -> dict[str, str]:
        """The setting that makes this bash script the only pg_dump; `$REAL` is the real one."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "pg_dump"
        program.write_text(
            f'#!/bin/bash\nset -o pipefail\nREAL={REAL}\n[ "$1" = --version ] && exec $REAL --version\n'
            f"GATE={gate.path if gate else ''}\n{script}\n"
        )
        program.chmod(0o700)
        return {"PG_BIN_DIRS": str(folder)}

    async def sessions(self) -> list[asyncpg.Record]:
        """The server sessions of this exporter's attempts."""
        return list(await self.owner.fetch(_SESSIONS))

    async def has_no_session(self) -> bool:
        return await self.sessions() == []

    async def ends_session(self, query: str) -> None:
        """End the one whose last statement is like this, as soon as it is, and wait until it is gone."""

        async def ended() -> bool:
            found = await self.owner.fetch(_END_SESSIONS, query)
            return [gone for (gone,) in found] == [True]

        await eventually(ended)

    async def waits_for_lock(self) -> bool:
        return any(session["wait_event_type"] == "Lock" for session in await self.sessions())


@contextmanager
def gate_in(folder: Path) -> Iterator[Gate]:
    gate = Gate(folder / "gate")
    os.mkfifo(gate.path)
    try:
        yield gate
    finally:
        gate.open()


@asynccontextmanager
async def plant_on(url: str, folder: Path, role_passwords: dict[str, str]) -> AsyncIterator[Plant]:
    """In a database with a control plane, which is empty afterwards, too.

    At the end no process and no server session of an attempt may be left.
    """
    environment = {
        "DATABASE_URL": url_as(url, "pgferry_exporter", role_passwords["exporter"]),
        "TENANT_DATABASE_URL": url_as(url, "pgferry_dump", role_passwords["dump"]),
        "AMQP_URL": "amqp://guest:guest@127.0.0.1:1/",
        "SPOOL_URL": (folder / "spool").as_uri(),
        "PG_BIN_DIRS": str(REAL.parent),
    }
    children = set(children_of(os.getpid()))
    owner = await asyncpg.connect(url)
    async with open_database(environment["DATABASE_URL"], name="pgferry-exporter") as database:
        spool = await open_spool(environment["SPOOL_URL"], database)
        plant = Plant(owner, database, environment, spool, folder)
        yield plant
        assert set(children_of(os.getpid())) <= children
        await eventually(plant.has_no_session)
    await owner.execute(_EMPTY)
    await owner.close()


async def failure_of(work: Awaitable[None]) -> Failure:
    with pytest.raises(Failure) as caught:
        await work
    return caught.value


def url_as(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}"))
