"""`busbar plugin policy`: how a plugin's events are delivered on this host, whatever its author chose."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from pydantic.alias_generators import to_camel

from host.cli.client import request, segment
from host.cli.output import USED_WRONGLY, AsJson, command, fail, show, table


@command
def policy(
    plugin: Annotated[str, typer.Argument(help="The plugin's id.")],
    subscription: Annotated[
        str | None, typer.Argument(help="One of its subscriptions; @schedules is that of its firings.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override a field; without a value, the plugin's own again."),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="All fields are the plugin's own again, before --set.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the delivery policies of a plugin's subscriptions, or override fields of one."""
    path = f"/api/v1/plugins/{segment(plugin)}/subscriptions"
    changes = _changes(set_ or [], as_json=as_json)
    if subscription is None:
        if changes or reset:
            fail(
                f"name the subscription: 'busbar plugin policy {plugin}' lists them",
                "usage",
                USED_WRONGLY,
                as_json=as_json,
            )
        _list(request("GET", path).data, as_json=as_json)
        return
    path += f"/{segment(subscription)}"
    found = request("GET", path).data
    if changes or reset:
        kept = {} if reset else {field: found["policy"][field] for field in found["overridden"]}
        fields = {field: value for field, value in {**kept, **changes}.items() if value is not None}
        found = request("PUT", path, body=fields).data
    if as_json:
        show(found, as_json=True)
        return
    rows = [
        {"field": field, "value": value, "by": "administrator" if field in found["overridden"] else "plugin"}
        for field, value in found["policy"].items()
    ]
    table(rows, {"field": "FIELD", "value": "VALUE", "by": "SET BY"}, as_json=False, empty="")


def _list(found: list[dict[str, Any]], *, as_json: bool) -> None:
    rows = found if as_json else [{**one["policy"], **one} for one in found]
    columns = {
        "name": "SUBSCRIPTION",
        "types": "TYPES",
        "order": "ORDER",
        "attempts": "ATTEMPTS",
        "deadLetters": "DEAD LETTERS",
        "behind": "BEHIND",
        "overridden": "OVERRIDDEN",
    }
    table(rows, columns, as_json=as_json, empty="it has no subscriptions")


def _changes(given: list[str], *, as_json: bool) -> dict[str, Any]:
    """The fields of `--set` by their names in the API; a value is JSON where it can be, else text."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            fail(f"'{one}' sets nothing: write FIELD=VALUE, such as attempts=3", "usage", USED_WRONGLY, as_json=as_json)
        field = to_camel(name.replace("-", "_"))
        try:
            found[field] = json.loads(text) if text else None
        except ValueError:
            found[field] = text
    return found
