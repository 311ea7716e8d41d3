"""`busbar plugin`: build, sign and verify a release; install and manage plugins of a daemon."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from host.cli.building import build_wheel
from host.cli.client import Answer, request, segment
from host.cli.dev import dev
from host.cli.key import load_key
from host.cli.output import FAILED, USED_WRONGLY, AsJson, command, fail, show, table
from host.cli.policy import policy
from host.runtime.sdk_path import provided
from host.supply.keys import PrivateKey, PublicKey
from host.supply.signing import attestations_of, sign_wheel
from host.supply.trust_store import Publisher, TrustedKey, TrustSnapshot
from host.supply.verification import Purpose, verify_release
from host.supply.wheel_reader import read_wheel

app = typer.Typer(help="Build, sign, install and manage plugins.", no_args_is_help=True, rich_markup_mode=None)

Wheel = Annotated[Path, typer.Argument(help="The wheel.")]
Id = Annotated[str, typer.Argument(help="The plugin's id.")]


# -- for publishers

app.command()(dev)


@app.command()
@command
def build(
    project: Annotated[Path, typer.Argument(help="Folder of the plugin project.")] = Path(),
    out: Annotated[Path | None, typer.Option(help="Where the wheel goes; dist in the project by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build a plugin project into a wheel, and check that a host would read it."""
    wheel = build_wheel(project, out or project / "dist")
    read = read_wheel(wheel.read_bytes(), wheel.name, provided())
    data = {"wheel": str(wheel), "plugin": read.manifest.plugin.id, "version": read.version}
    show(data, as_json=as_json, text=f"{wheel}\nnext: busbar plugin sign {wheel} --key FILE --publisher ID")


@app.command()
@command
def sign(
    wheel: Wheel,
    publisher: Annotated[str, typer.Option(help="The id under which hosts know you.")],
    key: Annotated[Path | None, typer.Option(help="The key's file; BUSBAR_SIGNING_KEY holds the key itself.")] = None,
    sequence: Annotated[int | None, typer.Option(help="Grows with each release; the time by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sign a wheel: adds a line to the attestations beside it, and never changes the wheel."""
    held = os.environ.get("BUSBAR_SIGNING_KEY", "")
    if key is not None:
        private = load_key(key, as_json=as_json)
    elif held:
        private = PrivateKey.parse(held.encode(), os.environ.get("BUSBAR_KEY_PASSPHRASE"))
    else:
        fail(
            "name a key with --key, or put one into BUSBAR_SIGNING_KEY",
            "usage",
            USED_WRONGLY,
            as_json=as_json,
        )
    statement = sign_wheel(
        wheel,
        private,
        publisher=publisher,
        sequence=sequence,
        issued_at=datetime.now(UTC),
        provided=provided(),
    )
    beside = attestations_of(wheel)
    data = {
        "attestations": str(beside),
        "plugin": statement.plugin,
        "version": statement.version,
        "sequence": statement.sequence,
    }
    show(data, as_json=as_json, text=f"{statement.plugin} {statement.version} signed by {publisher}: {beside}")


@app.command()
@command
def verify(
    wheel: Wheel,
    key: Annotated[list[str], typer.Option(help="A public key to believe, ed25519:…; may be repeated.")],
    publisher: Annotated[str, typer.Option(help="Whose key it is.")],
    as_json: AsJson = False,
) -> None:
    """Check a release as a host would that trusts this key for this plugin."""
    import hashlib  # noqa: PLC0415 - only here

    content = wheel.read_bytes()
    beside = attestations_of(wheel)
    attestations = beside.read_bytes() if beside.exists() else b""
    steps: list[dict[str, str]] = []
    read = read_wheel(content, wheel.name, provided())
    steps.append({"rule": "wheel", "result": f"{len(read.files)} files, each as RECORD says"})
    keys = tuple(TrustedKey(PublicKey.parse(text)) for text in key)
    trust = TrustSnapshot((Publisher(publisher, publisher, (read.name,), keys),))
    verified = verify_release(
        sha256=hashlib.sha256(content).hexdigest(),
        filename=wheel.name,
        attestations=attestations,
        trust=trust,
        now=datetime.now(UTC),
        purpose=Purpose.INSTALL,
    )
    steps.append({"rule": "signature", "result": f"by {publisher}, key {verified.key_id[:16]}…"})
    if verified.statement.record_sha256 != read.record_sha256:
        fail(
            "the wheel's RECORD is not the one that was signed",
            "release_subject_mismatch",
            FAILED,
            as_json=as_json,
        )
    steps.append({"rule": "statement", "result": f"{read.name} {read.version}, sequence {verified.statement.sequence}"})
    table(steps, {"rule": "RULE", "result": "HOLDS"}, as_json=as_json, empty="")


# -- for administrators


@app.command()
@command
def install(
    wheel: Wheel,
    enable: Annotated[bool, typer.Option("--enable", help="Have it run at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Install a signed wheel; the attestations beside it are taken by themselves."""
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
