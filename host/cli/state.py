"""`busbar state`: the state folder of a host that does not run."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from host.cli.output import FAILED, USED_WRONGLY, AsJson, command, fail, show
from host.settings import Settings
from host.storage.state_folder import StateFolder, give_up

app = typer.Typer(help="The state folder of a host that does not run.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def nouns() -> None:
    """Keep the noun: a Typer app with one command would swallow its name."""


@app.command("begin-anew")
@command
def begin_anew(
    config: Annotated[Path | None, typer.Option("--config", help="The settings file, in TOML.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: you give up what the host held.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give up a host's history, where its database is lost for good: the next start is that of a new host.

    Database, seals, releases and data of plugins are moved into a folder beside them; nothing is deleted.
    """
    directory = Settings.load(config, os.environ).storage.directory
    if not directory.is_dir():
        fail(f"there is no state folder {directory}: is --config right?", "usage", USED_WRONGLY, as_json=as_json)
    state = StateFolder.open(directory)
    try:
        if not yes:
            if as_json or not sys.stdin.isatty():
                sentence = (
                    f"every event, plugin and token in {state.path} is given up: say --yes, or answer on a terminal"
                )
                fail(sentence, "usage", USED_WRONGLY, as_json=as_json)
            if not typer.confirm(f"Give up every event, plugin and token in {state.path}?", err=True):
                fail("nothing was moved", "not_confirmed", FAILED)
        into = f"given-up-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        moved = give_up(state, into)
    finally:
        state.close()
    found = {"folder": str(state.path / into), "moved": list(moved)}
    text = f"moved into {found['folder']}: {', '.join(moved) or 'nothing'}; the next start is that of a new host"
    show(found, as_json=as_json, text=text)
