"""`busbar publisher`: whom the daemon believes, and for which plugins."""

from __future__ import annotations

from typing import Annotated

import typer

from host.cli.client import request, segment
from host.cli.output import AsJson, command, show, table

app = typer.Typer(help="The trust store: publishers and their keys.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
@command
def add(
    publisher: Annotated[str, typer.Argument(help="The publisher's id.")],
    key: Annotated[list[str], typer.Option(help="A public key, ed25519:…; may be repeated.")],
    plugins: Annotated[list[str], typer.Option("--plugin", help="A plugin id or namespace it may sign.")],
    title: Annotated[str, typer.Option(help="Its name for people.")] = "",
    max_isolation: Annotated[str, typer.Option(help="process, or inline for code in the host itself.")] = "process",
    as_json: AsJson = False,
) -> None:
    """Trust a publisher's keys for plugins of these names."""
    body = {
        "id": publisher,
        "title": title or publisher,
        "keys": [{"public": public} for public in key],
        "plugins": plugins,
        "maxIsolation": max_isolation,
    }
    answer = request("POST", "/api/v1/publishers", body=body)
    show(answer, as_json=as_json, text=f"publisher {publisher} is trusted for {', '.join(plugins)}")


@app.command("list")
@command
def list_(as_json: AsJson = False) -> None:
    """List the publishers."""
    rows = request("GET", "/api/v1/publishers").data
    columns = {
        "id": "ID",
        "title": "TITLE",
        "plugins": "PLUGINS",
        "maxIsolation": "ISOLATION",
        "keys": "KEYS",
    }
    table(rows, columns, as_json=as_json, empty="no publishers are trusted")


@app.command()
@command
def revoke(
    publisher: Annotated[str, typer.Argument(help="The publisher's id.")],
    key_id: Annotated[str, typer.Argument(help="The key's id.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the key.")] = "",
    as_json: AsJson = False,
) -> None:
    """Believe nothing that this key signed, ever again."""
    path = f"/api/v1/publishers/{segment(publisher)}/keys/{segment(key_id)}"
    answer = request("DELETE", path, query={"reason": reason or None})
    show(answer, as_json=as_json, text=f"key {key_id} of {publisher} is revoked")
