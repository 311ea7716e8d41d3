"""`busbar dead-letter`: deliveries that were given up on, and what becomes of them, one by one or all that fit."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, TypeGuard

import typer

from host.cli.client import request, segment
from host.cli.output import USED_WRONGLY, AsJson, command, fail, show, table
from host.cli.selection import DryRun, Filter, Plugin, Since, Subscription, Type, Until, given, parsed_filter

BASE: Final = "/api/v1/dead-letters"

app = typer.Typer(help="Deliveries that were given up on.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(help="The dead letter's id.")]
OneId = Annotated[str | None, typer.Argument(metavar="ID", help="The dead letter's id; without it, all that fit.")]


@app.command("list")
@command
def list_(
    plugin: Plugin = None,
    subscription: Subscription = None,
    type_: Type = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first."""
    query = _choice(plugin, subscription, type_, since, until, as_json=as_json)
    rows = request("GET", BASE, query={**query, "limit": limit}).data
    columns = {
        "id": "ID",
        "subscription": "SUBSCRIPTION",
        "eventType": "TYPE",
        "attempts": "ATTEMPTS",
        "reason": "REASON",
        "at": "AT",
    }
    table(rows, columns, as_json=as_json, empty="no dead letters")


@app.command("show")
@command
def show_(letter: Id, as_json: AsJson = False) -> None:
    """Show one with its event, why it was given up, and every attempt."""
    found = request("GET", f"{BASE}/{segment(letter)}").data
    lines = [
        f"dead letter  {found['id']} of {found['subscription']}, {found['at']}",
        f"reason       {found['reason']}",
        *(
            f"attempt {one['attempt']:<4} {one['at']}, {one['durationMs']} ms: {one['error']}"
            for one in found["history"]
        ),
        f"event        number {found['sequence']} of the log",
        json.dumps(found["event"], indent=2, ensure_ascii=False),
        found["traceback"],
    ]
    show(found, as_json=as_json, text="\n".join(lines).rstrip())


@app.command()
@command
def retry(
    letter: OneId = None,
    plugin: Plugin = None,
    subscription: Subscription = None,
    type_: Type = None,
    since: Since = None,
    until: Until = None,
    filter_: Filter = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Deliver one again, or all that fit, with all attempts before them."""
    choice = _choice(plugin, subscription, type_, since, until, filter_, as_json=as_json)
    if _is_one(letter, choice, dry_run=dry_run, as_json=as_json):
        answer = request("POST", f"{BASE}/{segment(letter)}/retry")
        show(answer, as_json=as_json, text=f"dead letter {letter} will be delivered again")
    else:
        _decide_all("retry", choice, ("will be", "delivered again"), dry_run=dry_run, as_json=as_json)


@app.command()
@command
def drop(
    letter: OneId = None,
    plugin: Plugin = None,
    subscription: Subscription = None,
    type_: Type = None,
    since: Since = None,
    until: Until = None,
    filter_: Filter = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Discard one, or all that fit, for good."""
    choice = _choice(plugin, subscription, type_, since, until, filter_, as_json=as_json)
    if _is_one(letter, choice, dry_run=dry_run, as_json=as_json):
        answer = request("DELETE", f"{BASE}/{segment(letter)}")
        show(answer, as_json=as_json, text=f"dead letter {letter} discarded")
    else:
        _decide_all("discard", choice, ("are", "discarded"), dry_run=dry_run, as_json=as_json)


def _choice(
    plugin: str | None,
    subscription: str | None,
    type_: str | None,
    since: str | None,
    until: str | None,
    filter_: str | None = None,
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Which dead letters, as a request says it; ends the command where the options do not go together."""
    if subscription is not None and plugin is None:
        fail(
            "--subscription is a subscription of a plugin: name it with --plugin",
            "usage",
            USED_WRONGLY,
            as_json=as_json,
        )
    return given(
        plugin=plugin,
        subscription=subscription,
        type=type_,
        since=since,
        until=until,
        filter=parsed_filter(filter_, as_json=as_json),
    )


def _is_one(letter: str | None, choice: dict[str, Any], *, dry_run: bool, as_json: bool) -> TypeGuard[str]:
    """Whether the command is about one dead letter; all of them are decided on only where that is said."""
    if letter is None and not choice:
        fail(
            "name a dead letter, or say which ones: --plugin ID, or --type '*' for all of them",
            "usage",
            USED_WRONGLY,
            as_json=as_json,
        )
    if letter is not None and (choice or dry_run):
        fail("name one dead letter, or say which ones with options, not both", "usage", USED_WRONGLY, as_json=as_json)
    return letter is not None


def _decide_all(verb: str, choice: dict[str, Any], becomes: tuple[str, str], *, dry_run: bool, as_json: bool) -> None:
    answer = request("POST", f"{BASE}/{verb}", body={**choice, "dryRun": dry_run})
    count, sample = answer.data["count"], answer.data["sample"]
    now, decided = becomes
    text = f"dead letters that {'would be' if dry_run else now} {decided}: {count}"
    if sample:
        text += f" ({', '.join(map(str, sample))}{', …' if count > len(sample) else ''})"
    show(answer, as_json=as_json, text=text)
