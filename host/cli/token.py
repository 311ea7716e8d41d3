"""`busbar token`: API tokens of programs."""

from __future__ import annotations

from typing import Annotated

import typer

from host.cli.client import request, segment
from host.cli.output import AsJson, command, show, table

app = typer.Typer(help="API tokens of programs.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
@command
def new(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    as_json: AsJson = False,
) -> None:
    """Make a token; its secret is shown this once."""
    answer = request("POST", "/api/v1/tokens", body={"name": name, "role": role})
    show(answer, as_json=as_json, text=f"token {answer.data['id']} ({role}): {answer.data['token']}")


@app.command("list")
@command
def list_(as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    rows = request("GET", "/api/v1/tokens").data
    columns = {"id": "ID", "name": "NAME", "role": "ROLE", "createdAt": "CREATED", "expiresAt": "EXPIRES"}
    table(rows, columns, as_json=as_json, empty="no tokens")


@app.command()
@command
def revoke(token: Annotated[str, typer.Argument(help="The token's id.")], as_json: AsJson = False) -> None:
    """Make a token worthless at once."""
    answer = request("DELETE", f"/api/v1/tokens/{segment(token)}")
    show(answer, as_json=as_json, text=f"token {token} revoked")
