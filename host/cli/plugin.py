"""`busbar plugin`: manage the plugins of a daemon.

How releases come and go is in `plugin_releases`, what indexes have in `marketplace`, what publishers do in `publish`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from host.cli.client import Answer, request, segment
from host.cli.marketplace import outdated, search
from host.cli.output import AsJson, command, show, table
from host.cli.plugin_releases import bill_of_materials, install, rollback, scan, told_upgrade, upgrade
from host.cli.plugin_skip import skip
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

Id = Annotated[str, typer.Argument(help="The plugin's id.")]
ELSEWHERE: Final[tuple[Callable[..., None], ...]] = (
    *(install, upgrade, rollback, scan, bill_of_materials),
    *(search, outdated, policy, skip),
)
for verb in ELSEWHERE:
    app.command()(verb)


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
    show(found, as_json=False, text="\n".join(f"{name:10} {value}" for name, value in _about(found, health) if value))


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


def _about(found: dict[str, Any], health: dict[str, Any]) -> list[tuple[str, str]]:
    """What there is to say of a plugin, a line each."""
    breaker, worker = health["breaker"] or {}, health["worker"] or {}
    previous, probation = found["previousVersion"], (found["upgrade"] or {}).get("probationUntil")
    return [
        ("plugin", f"{found['id']} {found['version']} by {found['publisher']}"),
        ("from", f"index {found['index']}" if found["index"] else "an upload"),
        ("release", found["release"]),
        ("state", found["state"] + (f": {found['cause']}" if found["cause"] else "")),
        ("evidence", found["evidence"]),
        ("next", " ".join(filter(None, (found["nextAction"], found["nextActionAt"])))),
        ("upgrade", told_upgrade(found)),
        ("probation", f"{found['version']} until {probation}" if probation else ""),
        ("previous", f"{previous}: 'busbar plugin rollback {found['id']}' goes back to it" if previous else ""),
        ("breaker", _breakers(breaker)),
        ("worker", f"pid {worker['pid']}, {worker['rssBytes']} bytes" if worker.get("pid") else ""),
        ("cold start", worker.get("coldStartReason", "")),
        ("sandbox", _sandbox(worker)),
        ("lag", f"{health['lag']} events" if worker else ""),
        ("restarts", str(health["restarts"] or "")),
        ("last error", health["lastError"]),
        ("missing", ", ".join(found["missingGrants"])),
    ]


def _breakers(breaker: dict[str, Any]) -> str:
    """The breakers' states: one where all are in the same, else each by its share."""
    states = {share: found["state"] for share, found in breaker.get("shares", {}).items()}
    if len(set(states.values())) > 1:
        return ", ".join(f"{share} {state}" for share, state in states.items())
    return str(breaker.get("state", ""))


def _sandbox(worker: dict[str, Any]) -> str:
    """Whether the worker's sandbox is whole, or which parts are not, and why."""
    if worker.get("isolation") != "process" or not worker["sandbox"]:
        return ""
    parts = {name: found for name, found in worker["sandbox"].items() if found == "off" or found.startswith("un")}
    return "; ".join(f"{name}: {found}" for name, found in parts.items()) or "whole"


def _ask(plugin: str, verb: str) -> Answer:
    return request("POST", f"/api/v1/plugins/{segment(plugin)}/{verb}")


def _shown(answer: Answer, *, as_json: bool) -> None:
    found = answer.data
    cause = f" ({found['cause']})" if found["cause"] else ""
    show(answer, as_json=as_json, text=f"{found['id']} {found['version']} is {found['state']}{cause}")
