"""`busbar dead-letter`: deliveries that were given up on, and what becomes of them."""

from __future__ import annotations

from typing import Annotated

import typer

from host.cli.client import request, segment
from host.cli.output import AsJson, command, show, table

app = typer.Typer(help="Deliveries that were given up on.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(help="The dead letter's id.")]


@app.command("list")
@command
def list_(
    plugin: Annotated[str | None, typer.Option(help="Only those of this plugin.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first."""
    rows = request("GET", "/api/v1/dead-letters", query={"plugin": plugin, "limit": limit}).data
    columns = {
        "id": "ID",
        "subscription": "SUBSCRIPTION",
        "eventType": "TYPE",
        "attempts": "ATTEMPTS",
        "reason": "REASON",
        "at": "AT",
    }
    table(rows, columns, as_json=as_json, empty="no dead letters")


@app.command()
@command
def retry(letter: Id, as_json: AsJson = False) -> None:
    """Deliver it again, with all its attempts before it."""
    answer = request("POST", f"/api/v1/dead-letters/{segment(letter)}/retry")
    show(answer, as_json=as_json, text=f"dead letter {letter} will be delivered again")


@app.command()
@command
def drop(letter: Id, as_json: AsJson = False) -> None:
    """Discard it for good."""
    answer = request("DELETE", f"/api/v1/dead-letters/{segment(letter)}")
    show(answer, as_json=as_json, text=f"dead letter {letter} discarded")
