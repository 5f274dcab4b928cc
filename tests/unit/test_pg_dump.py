"""Which pg_dump is started, with which arguments, and where the password is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.exporter.pg_dump import (
    Client,
    DumpCommand,
    client_for,
    find_clients,
    quoted_pattern,
    without_password,
)
from shared.contracts.errors import Unavailable
from shared.contracts.job import Format
from shared.runtime.process import Fatal

if TYPE_CHECKING:
    from collections.abc import Sequence

PASSWORD = "p:a\\s s@w%o'r/d?&=#+"


def client(major: int) -> Client:
    return Client(Path(f"/usr/lib/postgresql/{major}/bin/pg_dump"), major, f"{major}.1")


def command(url: str, schema: str = "tenant_acme") -> DumpCommand:
    return DumpCommand(
        client=client(15),
        format=Format.SQL,
        url=url,
        schema=schema,
        snapshot="00000003-0000001B-1",
        lock_seconds=1.5,
        application_name="pgferry:job:1",
    )


@pytest.mark.parametrize(
    ("url", "shown", "password"),
    [
        ("postgresql://me@db/tenants", "postgresql://me@db/tenants", None),
        ("postgresql:///tenants", "postgresql:///tenants", None),
        ("postgresql://me:@db/tenants", "postgresql://me@db/tenants", None),
        ("postgresql://me:se%3Acret@db:5433/t", "postgresql://me@db:5433/t", "se:cret"),
        ("postgres://m%40e:a%25b@[::1]:5433/t", "postgres://m%40e@[::1]:5433/t", "a%b"),
        ("postgresql://me:x@a:1,b:2/t", "postgresql://me@a:1,b:2/t", "x"),
        ("postgresql:///t?user=me&password=s%26ecret", "postgresql:///t?user=me", "s&ecret"),
        (
            "postgresql://me@/t?host=/run/pg&password=x&sslmode=require",
            "postgresql://me@/t?host=%2Frun%2Fpg&sslmode=require",
            "x",
        ),
        (
            "postgresql://me:x@db/t?sslmode=verify-full&sslrootcert=/a%20b",
            "postgresql://me@db/t?sslmode=verify-full&sslrootcert=%2Fa%20b",
            "x",
        ),
        ("postgresql://me:x@db/t?application_name=mine", "postgresql://me@db/t", "x"),
    ],
)
def test_a_url_keeps_everything_but_the_password(url: str, shown: str, password: str | None) -> None:
    """In the user part or in the query; our own application name must win, so another is dropped."""
    assert without_password(url) == (shown, password)


@given(password=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_password_is_found_and_hidden(password: str) -> None:
    """Given in either place, percent-encoded."""
    encoded = quote(password, safe="")

    for url in (f"postgresql://me:{encoded}@db/t", f"postgresql://me@db/t?password={encoded}"):
        assert without_password(url) == ("postgresql://me@db/t", password)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{quote(PASSWORD, safe='')}@db/t",
        f"postgresql://me@db/t?password={quote(PASSWORD, safe='')}",
    ],
)
def test_no_argument_holds_the_password(url: str) -> None:
    """Everybody on the machine may read the arguments of a process."""
    arguments = "\0".join(command(url).arguments())

    assert PASSWORD not in arguments
    assert quote(PASSWORD, safe="") not in arguments
    assert "--no-password" in arguments


def test_the_schema_is_a_quoted_pattern() -> None:
    """Unquoted, `tenant_a*b` would be many schemas, and `A` another one."""
    assert quoted_pattern('tenant_A*b."c"') == '"tenant_A*b.""c"""'
    assert '--schema="tenant_A"' in command("postgresql://db/t", schema="tenant_A").arguments()


@pytest.mark.parametrize(
    ("server", "installed", "chosen"), [(15, [15, 16, 17], 15), (15, [17, 14, 16], 16), (18, [18], 18)]
)
def test_the_nearest_client_that_is_not_older_is_chosen(
    server: int, installed: Sequence[int], chosen: int
) -> None:
    """An older one refuses the server; a newer one writes what an older server cannot read back."""
    assert client_for(server, [client(major) for major in installed]).major == chosen


def test_without_a_fitting_client_the_job_says_which_to_install() -> None:
    """It costs nothing: whoever installs it gets the whole backlog done."""
    with pytest.raises(Unavailable, match="The server is PostgreSQL 18; install its pg_dump") as caught:
        client_for(18, [client(15), client(17)])

    assert caught.value.code == "client_missing"


def program(folder: Path, answer: str) -> Path:
    folder.mkdir(parents=True)
    path = folder / "pg_dump"
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o700)
    return path


def test_every_client_under_the_globs_is_found(tmp_path: Path) -> None:
    """Debian's version texts, development versions, and folders without pg_dump."""
    first = program(tmp_path / "15" / "bin", "pg_dump (PostgreSQL) 15.18 (Debian 15.18-1.pgdg120+1)")
    second = program(tmp_path / "18" / "bin", "pg_dump (PostgreSQL) 18beta2")
    other = program(tmp_path / "elsewhere", "pg_dump (PostgreSQL) 17.6")
    (tmp_path / "16" / "bin").mkdir(parents=True)

    clients = find_clients(f"{tmp_path}/[0-9]*/bin:{tmp_path}/elsewhere:{tmp_path}/nowhere")

    assert clients == [
        Client(first, 15, "15.18"),
        Client(second, 18, "18beta2"),
        Client(other, 17, "17.6"),
    ]


def test_without_any_client_the_exporter_does_not_start(tmp_path: Path) -> None:
    """It says which setting and what to install."""
    with pytest.raises(Fatal, match=r"No pg_dump in PG_BIN_DIRS .* install the PostgreSQL client programs"):
        find_clients(f"{tmp_path}/*/bin")


def test_a_program_that_is_not_pg_dump_is_not_used(tmp_path: Path) -> None:
    """Its answer is shown."""
    program(tmp_path / "bin", "Hello")

    with pytest.raises(Fatal, match="says nothing we know: 'Hello"):
        find_clients(f"{tmp_path}/bin")
