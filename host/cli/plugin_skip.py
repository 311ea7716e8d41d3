"""`busbar plugin skip`: give up what a plugin did not have yet."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from host.cli.client import Answer, request, segment
from host.cli.output import USED_WRONGLY, AsJson, command, fail, show
from host.cli.selection import DryRun


@command
def skip(
    plugin: Annotated[str, typer.Argument(help="The plugin's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Give them up without a question.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give up the events that it did not have yet, for good, so that the log may let go of them.

    It works in whatever state the plugin is. What is published from then on is delivered as before.
    """
    would = _ask(plugin, dry_run=True)
    if dry_run:
        show(would, as_json=as_json, text=f"would be given up: {_told(would.data)}")
        return
    if not yes and not _agreed(plugin, would.data, as_json=as_json):
        fail("nothing was given up", "not_agreed", USED_WRONGLY, as_json=as_json)
    done = _ask(plugin, dry_run=False)
    show(done, as_json=as_json, text=f"given up: {_told(done.data)}")


def _ask(plugin: str, *, dry_run: bool) -> Answer:
    return request("POST", f"/api/v1/plugins/{segment(plugin)}/skip", body={"dryRun": dry_run})


def _agreed(plugin: str, would: dict[str, Any], *, as_json: bool) -> bool:
    """Whether a person says so; nobody is asked where nobody can answer."""
    if as_json:
        return False
    try:
        return typer.confirm(f"Give up {_told(would)}? {plugin} will never have them.", err=True)
    except typer.Abort:
        return False


def _told(found: dict[str, Any]) -> str:
    """What there is to give up, in words."""
    behind = "; ".join(
        f"{one['subscription']}: {one['places']} places of the log, {one['retries']} to be tried again"
        for one in found["subscriptions"]
        if one["places"] or one["retries"]
    )
    return f"{found['events']} events, {found['bytes']} bytes" + (f" ({behind})" if behind else "")
