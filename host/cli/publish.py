"""`busbar plugin new|dev|test|build|sign|verify`: what publishers do, from an empty folder to a release."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from typer.core import TyperCommand

from host.cli.building import build_wheel
from host.cli.dev import dev
from host.cli.key import load_key, unlock
from host.cli.new_project import ProjectRefusedError, check_name, write_project
from host.cli.output import FAILED, USED_WRONGLY, AsJson, command, fail, show, table
from host.cli.release_rules import Candidate, Examination, examine
from host.runtime.errors import StartFailedError
from host.runtime.sdk_path import provided
from host.supply.errors import ReleaseRefusedError
from host.supply.trust.keys import PrivateKey, PublicKey
from host.supply.trust.publishers import (
    MAX_NAME,
    NAME,
    Publisher,
    TrustedKey,
    TrustSnapshot,
    check_policy,
    check_publisher,
)
from host.supply.trust.signing import attestations_of, sign_wheel
from host.supply.trust.statement import MAX_SEQUENCE
from host.supply.wheel.reader import read_wheel

app = typer.Typer(rich_markup_mode=None)

_DATE: Final = len("2030-12-31")

Project = Annotated[Path, typer.Argument(help="Folder of the plugin project.")]
Wheel = Annotated[Path, typer.Argument(help="The wheel.")]


@app.command()
@command
def new(
    name: Annotated[str, typer.Argument(help="The plugin's id: lower-case words joined by '-'.")],
    folder: Annotated[Path | None, typer.Option(help="Where the project goes; a folder of that name, here.")] = None,
    title: Annotated[str | None, typer.Option(help="Its name for people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a project that builds, tests and installs at once, to be changed into your own."""
    title = name.replace("-", " ").capitalize() if title is None else title
    try:
        check_name(name, title)
    except ProjectRefusedError as refused:
        fail(refused.message, refused.word, USED_WRONGLY, as_json=as_json)
    project = folder or Path(name)
    files = write_project(project, name, title)
    text = f"{project}: {', '.join(files)}\nnext: busbar plugin test {project}, then busbar plugin dev {project}"
    show({"project": str(project), "plugin": name, "files": files}, as_json=as_json, text=text)


app.command()(dev)


class _PytestCommand(TyperCommand):
    """A command that leaves everything after `--` to pytest."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        left = super().parse_args(ctx, args[:at])
        ctx.args = args[at + 1 :]
        return left

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- PYTEST ARGUMENTS]"]


@app.command("test", cls=_PytestCommand)
@command
def check(context: typer.Context, project: Project = Path(), as_json: AsJson = False) -> None:
    """Run the project's tests with pytest, then hold the code against plugin.toml as a host does at install."""
    from host.cli.project_check import check_manifest, run_tests  # noqa: PLC0415 - brings half the host
    from host.dev_host import Source  # noqa: PLC0415 - as above
    from host.observe import logging as host_logging  # noqa: PLC0415 - as above

    host_logging.configure("error", "console")
    source = Source.read(project)
    run_tests(project, source, context.args, quiet=as_json)
    try:
        description = asyncio.run(check_manifest(project, source))
    except StartFailedError as error:
        fail(error.message, error.word, FAILED, as_json=as_json, errors=error.traceback.splitlines())
    plugin = source.manifest.plugin.id
    data = {
        "plugin": plugin,
        "subscriptions": [one.name for one in description.subscriptions],
        "schedules": [one.name for one in description.schedules],
        "services": [one.name for one in description.services],
        "webhooks": [one.name for one in description.webhooks],
    }
    show(data, as_json=as_json, text=f"{plugin}: the tests pass, and the code keeps within plugin.toml")


@app.command()
@command
def build(
    project: Project = Path(),
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
    sequence: Annotated[
        int | None, typer.Option(help="Grows with each release; the time by default.", min=0, max=MAX_SEQUENCE)
    ] = None,
    valid_until: Annotated[
        str | None, typer.Option(help="Not to be installed after this date, or RFC 3339 time with an offset.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign a wheel: adds a line to the attestations beside it, and never changes the wheel."""
    if not NAME.fullmatch(publisher) or len(publisher) > MAX_NAME:
        fail(
            f"'{publisher}' is no publisher's id: lower-case letters and digits in words joined by '-'",
            "usage",
            USED_WRONGLY,
            as_json=as_json,
        )
    now = datetime.now(UTC)
    until = None if valid_until is None else _instant(valid_until, now, as_json=as_json)
    statement = sign_wheel(
        wheel,
        _signing_key(key, as_json=as_json),
        publisher=publisher,
        sequence=sequence,
        issued_at=now,
        provided=provided(),
        valid_until=until,
    )
    beside = attestations_of(wheel)
    data = {
        "attestations": str(beside),
        "plugin": statement.plugin,
        "version": statement.version,
        "sequence": statement.sequence,
        "validUntil": None if until is None else until.isoformat(),
    }
    show(data, as_json=as_json, text=f"{statement.plugin} {statement.version} signed by {publisher}: {beside}")


@app.command()
@command
def verify(
    wheel: Wheel,
    key: Annotated[list[str] | None, typer.Option(help="A public key to believe, ed25519:…; may be repeated.")] = None,
    publisher: Annotated[str | None, typer.Option(help="Whose key it is.")] = None,
    trust_store: Annotated[
        list[Path] | None,
        typer.Option(help="A publisher's file, or a folder of them, as a host's publishers.d; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a release as a host would, and say of each rule whether it holds."""
    if bool(key) != bool(publisher) or not (key or trust_store):
        fail(
            "say whom to believe: --key with --publisher, or --trust-store FILE",
            "usage",
            USED_WRONGLY,
            as_json=as_json,
        )
    trust = _trusted(trust_store or [], [_believed(publisher, key or [], wheel.name)] if publisher else [])
    beside = attestations_of(wheel)
    candidate = Candidate(wheel.name, wheel.read_bytes(), beside.read_bytes() if beside.exists() else b"")
    _explain(examine(candidate, trust, datetime.now(UTC), provided()), as_json=as_json)


def _explain(examination: Examination, *, as_json: bool) -> None:
    """Print each rule, and end as the release deserves."""
    refusal = examination.refusal
    rows = [{"rule": one.rule, "result": one.result.value, "detail": one.detail} for one in examination.steps]
    if as_json:
        verdict = (
            {"success": True}
            if refusal is None
            else {"success": False, "code": refusal.word, "message": refusal.message, "errors": refusal.errors}
        )
        print(json.dumps({**verdict, "warnings": examination.warnings, "rules": rows}, indent=2, ensure_ascii=False))
        if refusal is not None:
            raise typer.Exit(FAILED)
        return
    table(rows, {"rule": "RULE", "result": "RESULT", "detail": "DETAIL"}, as_json=False, empty="")
    for warning in examination.warnings:
        show(warning, as_json=False, text=f"warning: {warning}")
    if refusal is not None:
        fail(refusal.message, refusal.word, FAILED, errors=refusal.errors)


def _trusted(paths: Sequence[Path], believed: Sequence[Publisher]) -> TrustSnapshot:
    """The trust store of a host that was given these files, and believes these publishers besides."""
    from host.supply.trust.drop_ins import read_drop_in  # noqa: PLC0415 - brings the database, for this alone

    files = [file for path in paths for file in (sorted(path.glob("*.toml")) if path.is_dir() else [path])]
    said = [read_drop_in(file) for file in files]
    publishers = (*believed, *(one.publisher for one in said if one.publisher is not None))
    policies = tuple(policy for one in said for policy in one.policies)
    for publisher in publishers:
        check_publisher(publisher)
    for policy in policies:
        check_policy(policy, publishers)
    return TrustSnapshot(publishers, policies)


def _believed(publisher: str, keys: Sequence[str], filename: str) -> Publisher:
    """A publisher with these keys who may sign this plugin, whatever else."""
    try:
        plugin = str(parse_wheel_filename(filename)[0])
    except InvalidWheelFilename as error:
        raise ReleaseRefusedError("malformed", f"'{filename}' is no wheel's file name: {error}") from None
    trusted = tuple(TrustedKey(PublicKey.parse(text)) for text in keys)
    return Publisher(publisher, publisher, (plugin,), trusted, max_isolation="inline")


def _signing_key(file: Path | None, *, as_json: bool) -> PrivateKey:
    if file is not None:
        return load_key(file, as_json=as_json)
    held = os.environ.get("BUSBAR_SIGNING_KEY", "")
    if not held:
        fail("name a key with --key, or put one into BUSBAR_SIGNING_KEY", "usage", USED_WRONGLY, as_json=as_json)
    return unlock(held.encode(), as_json=as_json)


def _instant(text: str, now: datetime, *, as_json: bool) -> datetime:
    """The instant of `--valid-until`: a date is its end, in UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is not None and found.tzinfo is None and len(text) <= _DATE:
        found = datetime.combine(found.date(), time(23, 59, 59), UTC)
    if found is None or found.tzinfo is None or found <= now:
        fail(
            f"'{text}' is no time to come: write a date as 2030-12-31, or a time as 2030-12-31T12:00:00Z",
            "usage",
            USED_WRONGLY,
            as_json=as_json,
        )
    return found
