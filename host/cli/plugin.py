"""`busbar plugin`: install and manage the plugins of a daemon; what publishers do is in `publish`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from host.cli.client import Answer, request, segment
from host.cli.output import AsJson, command, show, table
from host.cli.policy import policy

PUBLISHERS: Final = ("new", "dev", "test", "build", "sign", "verify")


class _Verbs(TyperGroup):
    """The commands of this file, and those of `publish`, which is imported when one of them is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*PUBLISHERS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in PUBLISHERS:
            return super().get_command(ctx, cmd_name)
        return typer.main.get_group(importlib.import_module("host.cli.publish").app).commands[cmd_name]


app = typer.Typer(
    cls=_Verbs, help="Build, sign, install and manage plugins.", no_args_is_help=True, rich_markup_mode=None
)

Wheel = Annotated[Path, typer.Argument(help="The wheel.")]
Id = Annotated[str, typer.Argument(help="The plugin's id.")]


@app.command()
@command
def install(
    wheel: Wheel,
    enable: Annotated[bool, typer.Option("--enable", help="Have it run at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Install a signed wheel; the attestations beside it are taken by themselves."""
    from host.supply.signing import attestations_of  # noqa: PLC0415 - brings the reader of wheels, which only this needs

    files = {"wheel": wheel}
    if attestations_of(wheel).exists():
        files["attestations"] = attestations_of(wheel)
    _shown(request("POST", "/api/v1/plugins", files=files, query={"enable": enable}), as_json=as_json)


@app.command("list")
@command
def list_(
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the installed plugins."""
    rows = request("GET", "/api/v1/plugins", query={"state": state, "limit": 200}).data
    columns = {"id": "ID", "version": "VERSION", "state": "STATE", "publisher": "PUBLISHER", "cause": "CAUSE"}
    table(rows, columns, as_json=as_json, empty="no plugins are installed")


@app.command("show")
@command
def show_(plugin: Id, as_json: AsJson = False) -> None:
    """Show a plugin: its state and why, its breaker, its worker."""
    path = f"/api/v1/plugins/{segment(plugin)}"
    found = request("GET", path).data
    health = request("GET", path + "/health").data
    if as_json:
        show({**found, "health": health}, as_json=True)
        return
    breaker, worker = health["breaker"] or {}, health["worker"] or {}
    rows: list[tuple[str, Any]] = [
        ("plugin", f"{found['id']} {found['version']} by {found['publisher']}"),
        ("state", found["state"] + (f": {found['cause']}" if found["cause"] else "")),
        ("evidence", found["evidence"]),
        ("next", " ".join(filter(None, (found["nextAction"], found["nextActionAt"])))),
        ("breaker", breaker.get("state", "")),
        ("worker", f"pid {worker['pid']}, {worker['rssBytes']} bytes" if worker.get("pid") else ""),
        ("lag", f"{health['lag']} events" if worker else ""),
        ("restarts", health["restarts"] or ""),
        ("last error", health["lastError"]),
        ("missing", ", ".join(found["missingGrants"])),
    ]
    show(found, as_json=False, text="\n".join(f"{name:10} {value}" for name, value in rows if value))


@app.command()
@command
def enable(plugin: Id, as_json: AsJson = False) -> None:
    """Have it run."""
    _shown(_ask(plugin, "enable"), as_json=as_json)


@app.command()
@command
def disable(plugin: Id, as_json: AsJson = False) -> None:
    """Have it stop; its events wait for it."""
    _shown(_ask(plugin, "disable"), as_json=as_json)


@app.command()
@command
def logs(
    plugin: Id,
    limit: Annotated[int, typer.Option(help="At most so many lines.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show the last lines that it logged or printed."""
    lines = request("GET", f"/api/v1/plugins/{segment(plugin)}/logs", query={"limit": limit}).data
    table(
        lines,
        {"at": "AT", "level": "LEVEL", "message": "MESSAGE"},
        as_json=as_json,
        empty="it has logged nothing",
    )


@app.command()
@command
def remove(
    plugin: Id,
    purge: Annotated[bool, typer.Option("--purge", help="Drop its data and its dead letters, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Uninstall it."""
    answer = request("DELETE", f"/api/v1/plugins/{segment(plugin)}", query={"purge": purge})
    show(answer, as_json=as_json, text=f"{plugin} removed")


app.command()(policy)


def _ask(plugin: str, verb: str) -> Answer:
    return request("POST", f"/api/v1/plugins/{segment(plugin)}/{verb}")


def _shown(answer: Answer, *, as_json: bool) -> None:
    found = answer.data
    cause = f" ({found['cause']})" if found["cause"] else ""
    show(answer, as_json=as_json, text=f"{found['id']} {found['version']} is {found['state']}{cause}")
