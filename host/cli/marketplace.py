"""`busbar plugin search` and `outdated`: what the daemon's indexes have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from host.cli.client import request
from host.cli.output import AsJson, aside, command, show, table


@command
def search(
    words: Annotated[list[str] | None, typer.Argument(help="Words of the plugin's id; all plugins if none.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, up to 50.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Search the indexes of the daemon for plugins."""
    found = request("GET", "/api/v1/marketplace", query={"q": " ".join(words or ()), "limit": limit}).data
    if as_json:
        show(found, as_json=True)
        return
    columns = {"id": "ID", "version": "VERSION", "index": "INDEX", "installed": "INSTALLED"}
    table(found["plugins"], columns, as_json=False, empty="no index has such a plugin")
    for problem in found["problems"]:
        aside(f"{problem['index']}: {problem['message']}")
    if found["more"]:
        aside("there is more: search for more words, or with a higher --limit")


@command
def outdated(
    all_: Annotated[bool, typer.Option("--all", help="Show plugins, too, that are as new as can be.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the installed plugins that are outdated, or that their index took back."""
    rows = request("GET", "/api/v1/marketplace/updates", query={"all": all_}).data
    columns = {"id": "ID", "version": "VERSION", "latest": "LATEST", "index": "INDEX", "note": "NOTE"}
    shown = rows if as_json else [{**row, "note": _note(row)} for row in rows]
    table(shown, columns, as_json=as_json, empty="every plugin is as new as its index has it")


def _note(row: dict[str, Any]) -> str:
    if row["quarantined"]:
        return "in quarantine: disable it"
    if row["yanked"] is not None:
        return f"yanked: {row['yanked']}" if row["yanked"] else "yanked"
    return row["problem"]["message"] if row["problem"] else ""
