"""`busbar event replay`: deliver events of the log to one plugin again."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from host.cli.client import request
from host.cli.output import FAILED, AsJson, command, fail, show
from host.cli.selection import DryRun, Filter, Since, Until, given, parsed_filter

BASE: Final = "/api/v1/replays"
LOOK_SECONDS: Final = 0.5
"""How often a replay that is waited for is looked at."""


@command
def replay(
    plugin: Annotated[str, typer.Argument(help="The plugin that gets them.")],
    subscription: Annotated[str | None, typer.Option(help="Only this subscription of it.")] = None,
    since: Since = None,
    until: Until = None,
    filter_: Filter = None,
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver events of the log to one plugin again, those among them that its subscriptions take.

    They come beside what is new, which goes first, and are marked, so that the plugin can tell.
    """
    body = given(
        plugin=plugin,
        subscription=subscription,
        since=since,
        until=until,
        filter=parsed_filter(filter_, as_json=as_json),
        dryRun=dry_run,
    )
    answer = request("POST", BASE, body=body)
    found = answer.data
    stretch = f"events {found['firstSequence']} to {found['lastSequence']} of the log"
    if dry_run:
        show(answer, as_json=as_json, text=_forecast(found, stretch))
    elif not wait:
        show(answer, as_json=as_json, text=f"replay {found['id']} to {plugin} has begun: {stretch}")
    else:
        ended = _ended(found, as_json=as_json)
        if ended["state"] != "done":
            fail(f"{_told(ended)}; begin another for the rest", "replay_cancelled", FAILED, as_json=as_json)
        show(ended, as_json=as_json, text=_told(ended))


def _ended(found: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    """Wait for the end of a replay; a terminal shows how far it is."""
    console = Console(stderr=True, highlight=False)
    try:
        with console.status(escape(_told(found))) as status:
            while found["state"] == "running":
                time.sleep(LOOK_SECONDS)
                found = request("GET", f"{BASE}/{found['id']}").data
                status.update(escape(_told(found)))
    except KeyboardInterrupt:
        fail(
            f"replay {found['id']} goes on: DELETE {BASE}/{found['id']} would end it",
            "interrupted",
            FAILED,
            as_json=as_json,
        )
    return found


def _told(found: dict[str, Any]) -> str:
    counts = [f"{found['delivered']} delivered"]
    for field, word in (("dropped", "dropped"), ("deadLettered", "dead-lettered"), ("retried", "tried again")):
        if found[field]:
            counts.append(f"{found[field]} {word}")
    return f"replay {found['id']} to {found['plugin']} is {found['state']}: {', '.join(counts)}"


def _forecast(found: dict[str, Any], stretch: str) -> str:
    count = f"{found['matching']}" if found["complete"] else f"at least {found['matching']}"
    sample = "".join(f"\n  {event}" for event in found["sample"])
    return f"{count} of {stretch} would be delivered to {found['plugin']}" + (f", such as{sample}" if sample else "")
