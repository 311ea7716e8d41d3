"""Which events or dead letters a command is about: the options for it, and the filter among them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from host.cli.output import USED_WRONGLY, fail

Plugin = Annotated[str | None, typer.Option(help="Only those of this plugin.")]
Subscription = Annotated[str | None, typer.Option(help="Only those of this subscription of it.")]
Type = Annotated[str | None, typer.Option("--type", help="Only this type; * stands for any characters.")]
Since = Annotated[str | None, typer.Option(help="Not before this instant (RFC 3339).")]
Until = Annotated[str | None, typer.Option(help="Before this instant (RFC 3339).")]
Filter = Annotated[
    str | None, typer.Option("--filter", help="Only events that fit this filter, or all of a list of them, as JSON.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def parsed_filter(text: str | None, *, as_json: bool) -> Any:
    """The filter of `--filter`, for the body of a request; the host says whether it means anything.

    Ends the command where it is no JSON.
    """
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        fail(f"--filter is no JSON: {error}", "usage", USED_WRONGLY, as_json=as_json)


def given(**fields: Any) -> dict[str, Any]:
    """The fields of a request that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
