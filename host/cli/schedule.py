"""`busbar schedule`: schedules of plugins and their firings."""

from __future__ import annotations

from typing import Annotated

import typer

from host.cli.client import request, segment
from host.cli.output import AsJson, command, show, table

app = typer.Typer(help="Schedules and their firings.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(help="The schedule's id: plugin/name.")]


@app.command("list")
@command
def list_(as_json: AsJson = False) -> None:
    """List the schedules."""
    rows = request("GET", "/api/v1/schedules").data
    columns = {"id": "ID", "rule": "RULE", "nextDue": "NEXT", "lastFired": "LAST", "paused": "PAUSED"}
    table(rows, columns, as_json=as_json, empty="no schedules")


@app.command()
@command
def run(schedule: Id, as_json: AsJson = False) -> None:
    """Fire it now, whatever its rule says."""
    show(_ask(schedule, "run"), as_json=as_json, text=f"{schedule} fired")


@app.command()
@command
def pause(schedule: Id, as_json: AsJson = False) -> None:
    """Fire it no more until it is resumed."""
    show(_ask(schedule, "pause"), as_json=as_json, text=f"{schedule} paused")


@app.command()
@command
def resume(schedule: Id, as_json: AsJson = False) -> None:
    """Fire it by its rule again."""
    show(_ask(schedule, "resume"), as_json=as_json, text=f"{schedule} resumed")


def _ask(schedule: str, verb: str) -> object:
    return request("POST", f"/api/v1/schedules/{segment(schedule)}/{verb}")
