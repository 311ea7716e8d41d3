"""`busbar event`: publish and look up events, and deliver them again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from host.cli.client import request
from host.cli.output import USED_WRONGLY, AsJson, command, fail, show, table
from host.cli.replay import replay
from host.cli.selection import Since, Type, Until
from plugin_sdk.events import new_id

app = typer.Typer(help="Publish and look up events, deliver them again.", no_args_is_help=True, rich_markup_mode=None)
app.command()(replay)


@app.command()
@command
def publish(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, such as milestone.completed.")],
    data: Annotated[str, typer.Option(help="The payload, as JSON.")] = "",
    subject: Annotated[str, typer.Option(help="What the event is about.")] = "",
    source: Annotated[str, typer.Option(help="Who says so, as a URI-reference.")] = "/busbar/cli",
    id_: Annotated[str, typer.Option("--id", help="The event's id; a UUID by default.")] = "",
    as_json: AsJson = False,
) -> None:
    """Publish one CloudEvent; it is durable when this returns."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id_ or new_id(),
        "source": source,
        "type": type_,
        "time": datetime.now(UTC).isoformat(),
    }
    if subject:
        event["subject"] = subject
    if data:
        try:
            event["data"] = json.loads(data)
        except ValueError as error:
            fail(f"--data is no JSON: {error}", "usage", USED_WRONGLY, as_json=as_json)
    answer = request("POST", "/api/v1/events", body=event, content_type="application/cloudevents+json")
    show(answer, as_json=as_json, text=f"event {event['id']} is number {answer.data['sequence']} of the log")


@app.command("list")
@command
def list_(
    type_: Type = None,
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this subject.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List events of the log, the newest first."""
    query = {
        "type": type_,
        "source": source,
        "subject": subject,
        "since": since,
        "until": until,
        "limit": limit,
    }
    rows = [{**row["event"], **row} for row in request("GET", "/api/v1/events", query=query).data]
    columns = {
        "sequence": "NO",
        "time": "TIME",
        "type": "TYPE",
        "source": "SOURCE",
        "subject": "SUBJECT",
        "id": "ID",
    }
    table(rows, columns, as_json=as_json, empty="no such events")
