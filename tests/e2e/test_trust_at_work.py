"""Trust while plugins run: what is no longer believed, or no longer what was signed, is stopped and said."""

import os
import sqlite3
import stat

import pytest
from plugin_projects import write_project

CLERK = '''"""Does its work."""
from plugin_sdk import Plugin, service


class Clerk(Plugin):
    @service
    async def work(self):
        """Do it."""
        return "done"
'''


@pytest.fixture(scope="module")
def wheel(signed, tmp_path_factory):
    return signed.build(write_project(tmp_path_factory.mktemp("clerk"), "clerk", CLERK))


@pytest.fixture
async def host(daemon, signed, wheel):
    one = daemon().start()
    await one.trust(signed.public, ["clerk"])
    status, answer = await one.install(wheel)
    assert status == 201, answer
    return one


async def shown(host):
    return (await host.ask("GET", "/api/v1/plugins/clerk"))[1]["data"]


async def stopped_by(host, code):
    async def refused():
        view = await shown(host)
        return view["state"] == "failed" and view["cause"] == code

    await host.until(refused)
    _, audit = await host.ask("GET", "/api/v1/audit")
    found = [one for one in audit["data"] if one["action"] == "plugin.start" and one["outcome"] == "refused"]
    assert found[0]["detail"]["code"] == code
    assert len(found) == 1, "the same refusal was written down more than once"
    _, events = await host.ask("GET", "/api/v1/events", params={"type": "busbar.release.refused"})
    assert events["data"][0]["event"]["data"]["code"] == code
    _, alerts = await host.ask("GET", "/api/v1/alerts")
    assert ("critical", "clerk", code) in [(one["severity"], one["subject"], one["code"]) for one in alerts["data"]]
    status, answer = await host.ask("POST", "/api/v1/plugins/clerk/call/work", json_body={})
    assert (status, answer["code"]) == (503, "plugin_not_running")


async def running(host):
    async def runs():
        return (await shown(host))["state"] == "running"

    await host.until(runs)


async def key_id(host):
    _, answer = await host.ask("GET", "/api/v1/publishers/acme")
    return answer["data"]["keys"][0]["kid"]


async def test_revoking_a_key_stops_what_it_signed_and_an_administrator_may_keep_a_release(host):
    path = f"/api/v1/publishers/acme/keys/{await key_id(host)}"
    status, _ = await host.ask("DELETE", path, params={"reason": "stolen"})
    assert status == 200
    await stopped_by(host, "release_revoked")
    assert "stolen" in (await shown(host))["evidence"]
    release = (await shown(host))["release"]
    status, _ = await host.ask("PUT", f"/api/v1/kept-releases/{release}", json_body={"reason": "we read it"})
    assert status == 200
    await running(host)


async def test_a_policy_that_asks_for_a_second_publisher_stops_what_has_one(host):
    status, answer = await host.ask("PUT", "/api/v1/trust-policies/clerk", json_body={"threshold": 2})
    assert status == 200, answer
    await stopped_by(host, "release_threshold_unmet")
    status, _ = await host.ask("DELETE", "/api/v1/trust-policies/clerk")
    assert status == 200
    await running(host)


async def test_a_retired_key_holds_for_what_is_installed_and_for_nothing_new(host, wheel):
    path = f"/api/v1/publishers/acme/keys/{await key_id(host)}"
    status, _ = await host.ask("PATCH", path, json_body={"state": "retired", "reason": "rotated"})
    assert status == 200
    await running(host)
    await host.ask("DELETE", "/api/v1/plugins/clerk")
    status, answer = await host.install(wheel)
    assert (status, answer["code"]) == (422, "release_key_retired")


@pytest.mark.parametrize("what", ["altered", "added", "removed", "bytecode"])
async def test_a_file_that_is_tampered_with_while_the_plugin_runs_stops_it(host, what):
    folder = host.folder / "var" / "releases" / (await shown(host))["release"] / "tree" / "clerk"
    folder.chmod(0o755)
    code = folder / "__init__.py"
    if what == "altered":
        code.chmod(0o644)
        code.write_text(CLERK.replace("done", "mischief"))
    elif what == "added":
        (folder / "more.py").write_text("raise SystemExit")
    elif what == "removed":
        code.unlink()
    else:
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"")
    await stopped_by(host, "release_modified")


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("UPDATE publishers SET plugins = '[\"*\"]'", "trust_store_tampered"),
        ("DELETE FROM publisher_keys", "trust_store_tampered"),
        ('UPDATE plugins SET granted = \'{"network": ["*:*"]}\'', "registry_tampered"),
        ("UPDATE plugins SET version = '0.9'", "registry_tampered"),
    ],
)
async def test_a_database_that_was_changed_while_the_host_was_down_runs_nothing_until_it_is_confirmed(host, sql, code):
    host.stop()
    with sqlite3.connect(host.folder / "var" / "busbar.db") as database:
        before = database.execute("SELECT plugins FROM publishers").fetchone()
        database.execute(sql)
    host.start()
    await stopped_by(host, code)
    status, answer = await host.ask("GET", "/api/v1/trust-store")
    assert answer["data"]["whole"] is False
    status, answer = await host.ask("POST", "/api/v1/plugins/clerk/disable")
    assert (status, answer["code"]) == (409, "registry_tampered") if code == "registry_tampered" else (200, None)
    if "plugins = " in sql:
        host.stop()
        with sqlite3.connect(host.folder / "var" / "busbar.db") as database:
            database.execute("UPDATE publishers SET plugins = ?", before)
        host.start()
        await host.ask("POST", "/api/v1/plugins/clerk/enable", params={"wait": "false"})
        await running(host)


async def test_a_state_folder_restored_from_a_backup_of_the_database_alone_is_noticed(host):
    host.stop()
    database = host.folder / "var" / "busbar.db"
    backup = database.read_bytes()
    host.start()
    path = f"/api/v1/publishers/acme/keys/{await key_id(host)}"
    assert (await host.ask("DELETE", path, params={"reason": "stolen"}))[0] == 200
    await stopped_by(host, "release_revoked")
    host.stop()
    database.write_bytes(backup)
    host.start()

    async def refused():
        view = await shown(host)
        return view["state"] == "failed" and view["cause"] == "trust_store_tampered"

    await host.until(refused)
    _, alerts = await host.ask("GET", "/api/v1/alerts")
    assert alerts["data"][0]["id"] == "host/trust-store"
    _, answer = await host.ask("GET", "/api/v1/trust-store")
    assert "older copy" in answer["data"]["cause"]
    assert (await host.ask("POST", "/api/v1/trust-store/confirm"))[0] == 200
    await running(host)


async def test_publishers_of_files_are_taken_as_soon_as_a_file_is_saved(daemon, signed, wheel, tmp_path):
    folder = tmp_path / "publishers.d"
    folder.mkdir()
    host = daemon(supply={"publishers_directory": str(folder)}).start()
    (folder / "acme.toml").write_text(
        f'[publisher]\nid = "acme"\nplugins = ["clerk"]\n[[keys]]\npublic = "{signed.public}"\n'
    )

    async def known():
        return (await host.ask("GET", "/api/v1/publishers/acme"))[0] == 200

    await host.until(known)
    status, answer = await host.install(wheel)
    assert status == 201, answer
    (folder / "acme.toml").write_text(
        f'[publisher]\nid = "acme"\nplugins = ["clerk"]\n[[keys]]\npublic = "{signed.public}"\nstate = "revoked"\n'
    )
    await stopped_by(host, "release_revoked")


async def test_what_the_state_folder_holds_is_not_for_others(host):
    keyring = host.folder / "var" / "keyring"
    assert stat.S_IMODE(keyring.stat().st_mode) == 0o600
    assert stat.S_IMODE((host.folder / "var" / "seals").stat().st_mode) == 0o700
    for path in (host.folder / "var" / "releases").rglob("*"):
        assert not os.lstat(path).st_mode & 0o022, path
