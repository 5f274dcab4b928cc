"""`pgferry keys …`."""

import os
import secrets
from pathlib import Path
from typing import Annotated

import pyrage
import typer

from cli.run import fail

app = typer.Typer(no_args_is_help=True, help="Make keys.")

_SECRET_BYTES = 32


@app.callback()
def keys() -> None:
    """Keep subcommands: with a single command typer would drop its name."""


@app.command()
def generate(
    identity: Annotated[
        Path, typer.Option("--identity", help="New file for the age identity (the private key), mode 0600.")
    ],
) -> None:
    """Make an age key pair, a signing key and a JWT secret.

    The private key goes to a file. Without it no backup can be read: keep copies, off the services' machines.

    The settings for the services go to standard output.

    Example: pgferry keys generate --identity backup-key.txt > pgferry.env
    """
    pair = pyrage.x25519.Identity.generate()
    try:
        _write_new(identity, f"# public key: {pair.to_public()}\n{pair}\n")
    except FileExistsError:
        fail(f"{identity} exists; a key file is never overwritten")
    except OSError as error:
        fail(f"{identity}: {error.strerror}")
    typer.echo(f"PGFERRY_AGE_RECIPIENTS={pair.to_public()}")
    typer.echo(f"PGFERRY_SIGNING_KEY={secrets.token_urlsafe(_SECRET_BYTES)}")
    typer.echo(f"JWT_SECRET={secrets.token_urlsafe(_SECRET_BYTES)}")


def _write_new(path: Path, text: str) -> None:
    """For this user alone, and on the disk before anybody encrypts for it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
