"""`busbar plugin install|upgrade|rollback|scan|bill-of-materials`: releases, as files or by name from an index."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from host.cli.client import LONG_SECONDS, Answer, document, request, segment
from host.cli.output import AsJson, command, show, table, working

BASE: Final = "/api/v1/plugins"

Id = Annotated[str, typer.Argument(metavar="PLUGIN", help="The plugin's id.")]
Downgrade = Annotated[bool, typer.Option("--allow-downgrade", help="Take an older version, or a lower sequence.")]
PublisherChange = Annotated[
    bool, typer.Option("--allow-publisher-change", help="Take it although another publisher signed it before.")
]
Grant = Annotated[bool, typer.Option("--grant", help="Grant what an upgrade asks for beyond what is granted.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it runs.")]


@command
def install(
    release: Annotated[
        str,
        typer.Argument(metavar="WHEEL|REQUIREMENT", help="A wheel, or what an index has: name, name==1.2, name>=1,<2."),
    ],
    enable: Annotated[bool, typer.Option("--enable", help="Have it run at once.")] = False,
    allow_downgrade: Downgrade = False,
    allow_publisher_change: PublisherChange = False,
    grant: Grant = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Install a signed wheel, or a plugin by name; the attestations beside a wheel are taken by themselves."""
    query = _query(allow_downgrade, allow_publisher_change, grant, no_wait)
    with working(f"installing {release}"):
        answer = _send(BASE, release, {**query, "enable": enable})
    _say(answer, as_json=as_json)


@command
def upgrade(
    plugin: Id,
    release: Annotated[
        str | None,
        typer.Argument(metavar="WHEEL|REQUIREMENT", help="What to; the newest that its index has, by default."),
    ] = None,
    allow_downgrade: Downgrade = False,
    allow_publisher_change: PublisherChange = False,
    grant: Grant = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Have a new release take over, beside the old one until it has shown that it runs."""
    query = _query(allow_downgrade, allow_publisher_change, grant, no_wait)
    with working(f"upgrading {plugin}"):
        answer = _send(f"{BASE}/{segment(plugin)}/upgrade", release, query)
    _say(answer, as_json=as_json)


@command
def rollback(plugin: Id, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Have the release before this one take over again."""
    with working(f"taking {plugin} back"):
        answer = request(
            "POST", f"{BASE}/{segment(plugin)}/rollback", query={"wait": not no_wait}, seconds=LONG_SECONDS
        )
    _say(answer, as_json=as_json)


@command
def scan(plugin: Id, as_json: AsJson = False) -> None:
    """Show what the scan of its release found, and which checks were not done."""
    report = request("GET", f"{BASE}/{segment(plugin)}/scan").data
    if as_json:
        show(report, as_json=True)
        return
    columns = {"severity": "SEVERITY", "rule": "RULE", "where": "WHERE", "message": "MESSAGE"}
    rows = [
        {**one, "where": f"{one['path']}:{one['line']}" if one["line"] else one["path"]} for one in report["findings"]
    ]
    if rows:
        table(rows, columns, as_json=False, empty="")
    lines = [f"{report['plugin']} {report['version']}, scanned {report['scannedAt']}: {report['summary']}"]
    if report["leftOut"]:
        lines.append(f"{report['leftOut']} more findings were counted and not kept")
    lines += [f"{one['name']}: {one['state']}: {one['reason']}" for one in report["checks"] if one["reason"]]
    show(report, as_json=False, text="\n".join(lines))


@command
def bill_of_materials(plugin: Id, as_json: AsJson = False) -> None:
    """Print its release's bill of materials, a CycloneDX document, as the daemon keeps it."""
    found = document(f"{BASE}/{segment(plugin)}/bill-of-materials")
    if as_json:
        show(json.loads(found), as_json=True)
    else:
        sys.stdout.write(found.decode() + "\n")


def told_upgrade(found: dict[str, Any]) -> str:
    """How the last upgrade or rollback of a plugin went, in a line; nothing where there was none."""
    last = found["upgrade"]
    if last is None:
        return ""
    reason = f": {last['reason']}" if last["reason"] else ""
    return f"{last['fromVersion']} to {last['toVersion']}: {last['state']}{reason}"


def _query(allow_downgrade: bool, allow_publisher_change: bool, grant: bool, no_wait: bool) -> dict[str, object]:
    return {
        "allowDowngrade": allow_downgrade,
        "allowPublisherChange": allow_publisher_change,
        "grant": grant,
        "wait": not no_wait,
    }


def _send(path: str, release: str | None, query: dict[str, object]) -> Answer:
    """Send a wheel with the attestations beside it, or ask for what an index has."""
    if release is None or not _is_wheel(release):
        body = {} if release is None else {"requirement": release}
        return request("POST", path, body=body, query=query, seconds=LONG_SECONDS)
    from host.supply.trust.signing import attestations_of  # noqa: PLC0415 - brings the reader of wheels, which only this needs

    files = {"wheel": Path(release)}
    if attestations_of(files["wheel"]).exists():
        files["attestations"] = attestations_of(files["wheel"])
    return request("POST", path, files=files, query=query, seconds=LONG_SECONDS)


def _is_wheel(text: str) -> bool:
    """Whether a file is meant; a folder may well have the name of the plugin that is made in it."""
    return text.endswith(".whl") or Path(text).is_file()


def _say(answer: Answer, *, as_json: bool) -> None:
    """What has come of it: the release that runs, and what becomes of the one that was to take over."""
    found = answer.data
    cause = f" ({found['cause']})" if found["cause"] else ""
    text = f"{found['id']} {found['version']} is {found['state']}{cause}"
    last = found["upgrade"]
    if last is not None and last["state"] == "needs-approval":
        text += f"; {last['toVersion']} waits: {last['reason']}; say --grant, or PUT {BASE}/{found['id']}/grants"
    elif last is not None and last["state"] == "starting":
        text += f"; {last['toVersion']} is being started: 'busbar plugin show {found['id']}' tells how that goes"
    elif last is not None and last["probationUntil"]:
        text += f"; on probation until {last['probationUntil']}, with {found['previousVersion']} to go back to"
    show(answer, as_json=as_json, text=text)
