"""`busbar schedule`: schedules of plugins and their firings."""

from __future__ import annotations

from typing import Annotated

import typer

from host.cli.client import request, segment
from host.cli.output import AsJson, command, show, table

app = typer.Typer(help="Schedules and their firings.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(help="The schedule's id: plugin/name.")]
Page = Annotated[int, typer.Option(help="Which page.")]
Limit = Annotated[int, typer.Option(help="How many on a page, at most 200.")]


@app.command("list")
@command
def list_(page: Page = 1, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List the schedules; `--json` has all their settings."""
    rows = request("GET", "/api/v1/schedules", query={"page": page, "limit": limit}).data
    columns = {
        "id": "ID",
        "rule": "RULE",
        "timezone": "ZONE",
        "state": "STATE",
        "nextDue": "NEXT",
        "lastFired": "LAST",
        "error": "ERROR",
    }
    table(rows, columns, as_json=as_json, empty="no schedules")


@app.command()
@command
def runs(schedule: Id, page: Page = 1, limit: Limit = 50, as_json: AsJson = False) -> None:
    """List its firings and what did not fire and why, the newest first."""
    query = {"page": page, "limit": limit}
    rows = request("GET", f"/api/v1/schedules/{segment(schedule)}/runs", query=query).data
    columns = {
        "due": "DUE",
        "firedAt": "DECIDED",
        "outcome": "OUTCOME",
        "reason": "REASON",
        "count": "COUNT",
        "latenessSeconds": "LATE (S)",
        "eventId": "EVENT",
    }
    table(rows, columns, as_json=as_json, empty="nothing came due yet")


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
