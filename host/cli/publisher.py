"""`busbar publisher`: whom the daemon believes, and for which plugins; how many must sign, and what is kept."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from host.cli.client import request, segment
from host.cli.output import FAILED, USED_WRONGLY, AsJson, aside, command, fail, show, table

BASE: Final = "/api/v1/publishers"
POLICIES: Final = "/api/v1/trust-policies"
KEPT: Final = "/api/v1/kept-releases"
STORE: Final = "/api/v1/trust-store"
SHORT: Final = 16
"""Digits of a key's id that lists show; commands take them for the whole id."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_KEY_COLUMNS: Final = {
    "id": "ID",
    "plugins": "PLUGINS",
    "maxIsolation": "ISOLATION",
    "kid": "KEY",
    "state": "STATE",
    "notBefore": "FROM",
    "notAfter": "UNTIL",
    "reason": "REASON",
}

app = typer.Typer(help="The trust store: publishers and their keys.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(metavar="PUBLISHER", help="The publisher's id.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id or its beginning, or the public key itself.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the key.")]
NotBefore = Annotated[str | None, typer.Option(help="Not believed before this time (RFC 3339).")]
NotAfter = Annotated[str | None, typer.Option(help="Signs nothing new after this time (RFC 3339).")]


# -- publishers and keys


@app.command()
@command
def add(
    publisher: Id,
    key: Annotated[list[str], typer.Option(help="A public key, ed25519:…; may be repeated.")],
    plugins: Annotated[list[str], typer.Option("--plugin", help="A plugin id or namespace it may sign.")],
    title: Annotated[str, typer.Option(help="Its name for people.")] = "",
    contact: Annotated[str, typer.Option(help="Whom to ask when a key is in doubt.")] = "",
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
        "contact": contact,
    }
    answer = request("POST", BASE, body=body)
    show(answer, as_json=as_json, text=f"publisher {publisher} is trusted for {', '.join(plugins)}")


@app.command("list")
@command
def list_(as_json: AsJson = False) -> None:
    """List the publishers with their keys, a line for each key."""
    found = request("GET", BASE).data
    rows = found if as_json else list(_key_rows(found))
    table(rows, _KEY_COLUMNS, as_json=as_json, empty="no publishers are trusted")


@app.command("add-key")
@command
def add_key(
    publisher: Id,
    key: Annotated[str, typer.Argument(help="The public key, ed25519:….")],
    not_before: NotBefore = None,
    not_after: NotAfter = None,
    as_json: AsJson = False,
) -> None:
    """Trust one more key of a publisher."""
    body = {"public": key, "notBefore": not_before, "notAfter": not_after}
    answer = request("POST", f"{BASE}/{segment(publisher)}/keys", body=body)
    show(answer, as_json=as_json, text=f"publisher {publisher} is believed by one more key")


@app.command()
@command
def retire(publisher: Id, key: KeyId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Believe a key for what is installed, and for nothing new."""
    kid = _whole_id(publisher, key, as_json=as_json)
    answer = request(
        "PATCH", f"{BASE}/{segment(publisher)}/keys/{segment(kid)}", body={"state": "retired", "reason": reason}
    )
    show(answer, as_json=as_json, text=f"key {kid} of {publisher} is retired: what it signed and is installed runs on")


@app.command()
@command
def revoke(publisher: Id, key: KeyId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Believe nothing that this key signed, ever again."""
    kid = _whole_id(publisher, key, as_json=as_json)
    path = f"{BASE}/{segment(publisher)}/keys/{segment(kid)}"
    answer = request("DELETE", path, query={"reason": reason or None})
    text = f"key {kid} of {publisher} is revoked: plugins that it alone vouched for stop, 'busbar plugin list' has them"
    show(answer, as_json=as_json, text=text)


@app.command()
@command
def remove(publisher: Id, as_json: AsJson = False) -> None:
    """Trust a publisher no more: what it alone signed stops."""
    answer = request("DELETE", f"{BASE}/{segment(publisher)}")
    show(answer, as_json=as_json, text=f"publisher {publisher} is trusted no more: plugins that it alone signed stop")


# -- how many must sign, and what is kept in spite of all


@app.command()
@command
def policy(
    namespace: Annotated[
        str | None, typer.Argument(help="A plugin id or a part of one, or '*'; without it, all policies are listed.")
    ] = None,
    threshold: Annotated[int | None, typer.Option(help="How many distinct publishers must have signed.")] = None,
    publishers: Annotated[
        list[str] | None,
        typer.Option("--publisher", help="Who counts, the plugin's own before its reviewers; may be repeated."),
    ] = None,
    predicates: Annotated[
        list[str] | None,
        typer.Option("--predicate", help="A type of statement that must stand beside the release's; may be repeated."),
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Leave the namespace to the policy above it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say who must sign the plugins of a namespace; what is not said stays as it was."""
    given = {"threshold": threshold, "publishers": publishers, "predicates": predicates}
    changes = {field: value for field, value in given.items() if value not in (None, [])}
    if drop and changes:
        fail("--drop takes no other option: drop the policy, or change it", "usage", USED_WRONGLY, as_json=as_json)
    if namespace is None:
        if drop or changes:
            fail("name the namespace: a plugin id, a part of one, or '*'", "usage", USED_WRONGLY, as_json=as_json)
        _list_policies(request("GET", POLICIES).data, as_json=as_json)
    elif drop:
        answer = request("DELETE", f"{POLICIES}/{segment(namespace)}")
        show(answer, as_json=as_json, text=f"{namespace} has no policy of its own any more")
    else:
        known = next((one for one in request("GET", POLICIES).data if one["namespace"] == namespace), None)
        if changes:
            kept = {field: value for field, value in (known or {}).items() if field != "namespace"}
            known = request("PUT", f"{POLICIES}/{segment(namespace)}", body={**kept, **changes}).data
        if known is None:
            sentence = f"{namespace} has no policy of its own: set one with --threshold, --publisher or --predicate"
            fail(sentence, "policy_not_found", FAILED, as_json=as_json)
        if as_json:
            show(known, as_json=True)
        else:
            _list_policies([known], as_json=False)


@app.command()
@command
def keep(
    release: Annotated[
        str | None,
        typer.Argument(help="The SHA-256 of an installed release, or its plugin's id; without it, those kept."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the release.")] = "",
    drop: Annotated[bool, typer.Option("--drop", help="Keep it no longer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let an installed release run on although a key that signed it is revoked."""
    if release is None:
        if drop or reason:
            fail("name the release, or its plugin", "usage", USED_WRONGLY, as_json=as_json)
        _list_kept(as_json=as_json)
        return
    sha256 = release
    if not _SHA256.fullmatch(release):
        sha256 = request("GET", f"/api/v1/plugins/{segment(release)}").data["release"]
    if drop:
        answer = request("DELETE", f"{KEPT}/{segment(sha256)}")
        show(answer, as_json=as_json, text=f"release {sha256} is kept no longer")
    else:
        answer = request("PUT", f"{KEPT}/{segment(sha256)}", body={"reason": reason})
        show(answer, as_json=as_json, text=f"release {sha256} is kept: it runs on, with a warning in the log")


# -- after somebody else wrote into the database


@app.command()
@command
def confirm(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: you have looked, and answer for it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Believe the trust store and the registry as they stand, after they were changed behind the daemon's back."""
    store = request("GET", STORE).data
    if store["whole"]:
        show(store, as_json=as_json, text="the trust store and the registry are whole: there is nothing to confirm")
        return
    if not as_json:
        _show_all(store)
    if not yes:
        if as_json or not sys.stdin.isatty():
            fail(
                f"{store['cause']}: look at 'busbar publisher list', 'publisher policy' and 'plugin list', "
                "then say --yes, or answer on a terminal",
                "usage",
                USED_WRONGLY,
                as_json=as_json,
            )
        if not typer.confirm("Do you believe all of this?", err=True):
            fail("nothing was confirmed, and nothing is believed", "not_confirmed", FAILED)
    answer = request("POST", f"{STORE}/confirm")
    show(answer, as_json=as_json, text="confirmed: the trust store and the registry are believed as they stand")


# -- inside


def _key_rows(publishers: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each key; what is the publisher's stands in the first of them, and its id in all."""
    for one in publishers:
        about = {field: one[field] for field in ("id", "plugins", "maxIsolation")}
        for key in one["keys"]:
            yield {**about, **key, "kid": key["kid"][:SHORT]}
            about = {"id": one["id"]}


def _whole_id(publisher: str, text: str, *, as_json: bool) -> str:
    """The id of the key that somebody means; what is none is left to the daemon to refuse."""
    if _SHA256.fullmatch(text):
        return text
    keys = request("GET", f"{BASE}/{segment(publisher)}").data["keys"]
    meant = [key["kid"] for key in keys if key["public"] == text or (text and key["kid"].startswith(text))]
    if len(meant) > 1:
        fail(
            f"'{text}' begins {len(meant)} keys of {publisher}: write more of it",
            "usage",
            USED_WRONGLY,
            as_json=as_json,
        )
    return meant[0] if meant else text


def _list_policies(found: list[dict[str, Any]], *, as_json: bool) -> None:
    columns = {
        "namespace": "NAMESPACE",
        "threshold": "THRESHOLD",
        "publishers": "PUBLISHERS",
        "predicates": "PREDICATES",
    }
    rows = found if as_json else [{**one, "publishers": one["publishers"] or "any"} for one in found]
    table(rows, columns, as_json=as_json, empty="no policies: one publisher signs, for its own plugins")


def _list_kept(*, as_json: bool) -> None:
    rows = request("GET", KEPT).data
    if rows and not as_json:
        plugins = {one["release"]: one for one in _plugins()}
        rows = [{**plugins.get(row["release"], {}), **row} for row in rows]
    columns = {"release": "RELEASE", "id": "PLUGIN", "version": "VERSION"}
    table(rows, columns, as_json=as_json, empty="no releases are kept")


def _show_all(store: dict[str, Any]) -> None:
    """Everything that a confirmation would have the host believe."""
    aside(f"wrong: {store['cause']}")
    aside(f"this is what would be believed, of {store['publishers']} publishers and {store['policies']} policies:")
    table(list(_key_rows(request("GET", BASE).data)), _KEY_COLUMNS, as_json=False, empty="no publishers")
    _list_policies(request("GET", POLICIES).data, as_json=False)
    _list_kept(as_json=False)
    columns = {"id": "PLUGIN", "version": "VERSION", "publisher": "PUBLISHER", "release": "RELEASE", "may": "MAY"}
    rows = [{**one, "may": _granted(one["grants"])} for one in _plugins()]
    table(rows, columns, as_json=False, empty="no plugins are installed")


def _plugins() -> list[dict[str, Any]]:
    """Every installed plugin, however many pages that takes: what is left out here would be believed unseen."""
    found: list[dict[str, Any]] = []
    for page in itertools.count(1):
        answer = request("GET", "/api/v1/plugins", query={"page": page, "limit": 200})
        found += answer.data
        if answer.pagination is None or page >= answer.pagination["totalPages"]:
            break
    return found


def _granted(grants: dict[str, Any]) -> str:
    """What a plugin may, in a line."""
    said = [
        f"{name}: {', '.join(value)}" if isinstance(value, list) else name for name, value in grants.items() if value
    ]
    return "; ".join(said)
