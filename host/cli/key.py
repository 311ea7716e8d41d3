"""`busbar key`: a publisher's signing keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from host.cli.output import USED_WRONGLY, AsJson, command, fail, show
from host.supply.trust.keys import PrivateKey

app = typer.Typer(help="A publisher's signing keys.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[Path, typer.Argument(help="The key's file.")]


@app.command()
@command
def new(
    file: File,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Leave the key unprotected.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a signing key; BUSBAR_KEY_PASSPHRASE, or a prompt, gives its passphrase."""
    key = PrivateKey.new()
    key.save(file, None if no_passphrase else ask_passphrase(confirm=True, as_json=as_json))
    data = {"file": str(file), "public": str(key.public), "kid": key.public.id}
    show(data, as_json=as_json, text=f"{file}: keep it secret\npublic key: {key.public}")


@app.command("show")
@command
def show_(file: File, as_json: AsJson = False) -> None:
    """Print the public key, for those who are to trust it."""
    key = load_key(file, as_json=as_json).public
    show({"public": str(key), "kid": key.id}, as_json=as_json, text=str(key))


def load_key(file: Path, *, as_json: bool) -> PrivateKey:
    """The key of a file; asks for its passphrase where it has one."""
    return unlock(file.read_bytes(), as_json=as_json)


def unlock(pem: bytes, *, as_json: bool) -> PrivateKey:
    """The key of a PEM text; asks for its passphrase where it has one."""
    return PrivateKey.parse(pem, ask_passphrase(confirm=False, as_json=as_json) if b"ENCRYPTED" in pem else None)


def ask_passphrase(*, confirm: bool, as_json: bool) -> str:
    """The passphrase from BUSBAR_KEY_PASSPHRASE, or from the person at the terminal."""
    given = os.environ.get("BUSBAR_KEY_PASSPHRASE")
    if given:
        return given
    try:
        return str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    except typer.Abort:
        fail(
            "the key needs a passphrase: set BUSBAR_KEY_PASSPHRASE"
            + (", or say --no-passphrase" if confirm else ", or answer on a terminal"),
            "usage",
            USED_WRONGLY,
            as_json=as_json,
        )
