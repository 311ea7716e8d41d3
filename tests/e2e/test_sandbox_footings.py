"""The sandbox as it stands in each of the ways in which a host can run: as root with users for its plugins, as root
without, and as a user of its own. What is weaker is said wherever somebody looks, and root is nobody by accident."""

import asyncio
import json
import os
import stat

import forked_command
import pytest
from footing import ROOT, Footing

from tests.e2e.conftest import Daemon

REFUSED = "PermissionError: [Errno 1]"
ABSENT = "OSError: [Errno 38]"
UNSUPPORTED = "OSError: [Errno 95]"
STANDS = {
    Footing.PLUGIN_USERS: {},
    Footing.COVERED: {},
    Footing.CLOSED: {"sandbox": {"plugins_as_root": True}},
    Footing.UNPRIVILEGED: {},
}


@pytest.fixture(scope="module", params=STANDS, ids=lambda footing: footing.name.lower())
def host(request, tmp_path_factory, signed, wheels):
    footing = request.param
    if not footing.possible:
        pytest.skip(f"a daemon cannot run here {footing.value}")
    one = Daemon(tmp_path_factory.mktemp("footing"), footing=footing, **STANDS[footing]).start()

    async def install():
        await one.trust(signed.public, ["saboteur"])
        status, answer = await one.install(wheels["saboteur"])
        assert status == 201, answer

    asyncio.run(install())
    yield one
    one.process.kill()
    one.process.wait(10)


async def _attempt(host, what, target=""):
    body = {"what": what, "target": str(target)}
    status, answer = await host.ask("POST", "/api/v1/plugins/saboteur/call/attempt", json_body=body)
    assert status == 200, answer
    return answer["data"]


@pytest.mark.parametrize(
    ("what", "met"),
    [
        ("chmod", REFUSED),
        ("chmod_at", REFUSED),
        ("chown", REFUSED),
        ("utime", REFUSED),
        ("setxattr", UNSUPPORTED),
        ("setxattr_at", UNSUPPORTED),
        ("getxattr", UNSUPPORTED),
        ("flags_at", REFUSED),
        ("inotify", ABSENT),
        ("fanotify", REFUSED),
        ("io_uring", ABSENT),
    ],
)
async def test_no_file_of_the_hosts_can_be_changed_or_watched(host, what, met):
    var = host.folder / "var"
    paths = [var, *(var / name for name in ("keyring", "busbar.db", "releases", "data")), *(var / "data").iterdir()]
    paths += (ROOT / "host" / "daemon.py", host.config)
    before = [_kept(path) for path in paths]
    for path in paths:
        found = await _attempt(host, what, path)
        assert (found["got"], found["met"][: len(met)]) == ("", met), (path, found)
    assert [_kept(path) for path in paths] == before


def _kept(path):
    seen = path.stat()
    return seen.st_mode, seen.st_uid, seen.st_gid, os.listxattr(path)


@pytest.mark.parametrize(
    ("what", "target", "met"),
    [
        ("fchmod", "{release}", REFUSED),
        ("flags", "{release}", REFUSED),
        ("lease", "{release}", REFUSED),
        ("notify", ".", REFUSED),
        ("signal_by_descriptor", "{daemon}", REFUSED),
        ("set_user_id", "planted", REFUSED),
        ("allocate", "room", UNSUPPORTED),
        ("chmod", ".", REFUSED),
    ],
)
async def test_what_it_may_open_is_no_way_around_that(host, what, target, met):
    release = next((host.folder / "var" / "releases").glob("*/*/saboteur/__init__.py"))
    found = await _attempt(host, what, target.format(release=release, daemon=host.process.pid))
    assert (found["got"], found["met"][: len(met)]) == ("", met), found
    data = host.folder / "var" / "data" / "saboteur"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert not any(path.stat().st_mode & 0o7000 for path in data.iterdir())
    assert sum(path.stat().st_blocks for path in data.iterdir()) < 1024


async def test_a_sandbox_that_is_not_whole_is_said_in_log_alerts_health_and_plugin_show(host, tmp_path):
    _, health = await host.ask("GET", "/api/v1/plugins/saboteur/health")
    parts = health["data"]["worker"]["sandbox"]
    lacking = {name for name, found in parts.items() if found != "enforced"}
    assert lacking == ({"user"} if host.footing is Footing.CLOSED else set()), parts
    _, alerts = await host.ask("GET", "/api/v1/alerts")
    alert = [one for one in alerts["data"] if one["code"] == "sandbox_weakened"]
    status, answer = await host.ask("GET", "/health")
    check = answer["data"]["checks"]["sandbox"]
    lines = host.logged("sandbox_weakened")
    environment = {"PYTHONPATH": str(ROOT), "BUSBAR_URL": host.url, "BUSBAR_TOKEN": host.token}
    shown = forked_command.busbar(tmp_path, "plugin", "show", "saboteur", environment=environment).stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("sandbox"))
    assert status == 200
    if not lacking:
        assert (alert, lines, check["status"], line.split()[-1]) == ([], [], "pass", "whole")
        return
    why = parts["user"]
    assert "cannot be entered by other users: run `chmod o+x " in why
    ((message, subject),) = ((one["message"], one["subject"]) for one in alert)
    assert subject == "saboteur"
    assert why in message
    assert check["status"] == "warn"
    assert check["output"] == f"user: {why}: saboteur"
    assert [(one["plugin"], one["parts"]) for one in lines] == [("saboteur", [f"user: {why}"])]
    assert why in line


async def test_a_plugin_that_would_be_root_is_refused_until_the_settings_say_so(tmp_path, signed, wheels):
    if not Footing.CLOSED.possible:
        pytest.skip("only root can run a plugin as root")
    host = Daemon(tmp_path, footing=Footing.CLOSED, runtime={"first_restart": "100ms"}).start()
    try:
        await host.trust(signed.public, ["saboteur"])
        status, answer = await host.install(wheels["saboteur"])
        assert (status, answer["code"]) == (422, "plugin_would_be_root"), answer
        for part in ("would run as root", "chmod o+x", "storage.directory", "sandbox.plugins_as_root = true"):
            assert part in answer["message"], answer
        assert host.logged("plugin_running") == []
    finally:
        host.kill()
    host.config.write_text(host.config.read_text() + "\n[sandbox]\nplugins_as_root = true\n")
    host.start()
    try:
        status, answer = await host.install(wheels["saboteur"])
        assert status == 201, answer
        host.kill()
        # It was allowed once; that does not make it so for ever.
        host.config.write_text(host.config.read_text().replace("plugins_as_root = true", "plugins_as_root = false"))
        host.start()
        _, found = await host.ask("GET", "/api/v1/plugins/saboteur")
        assert found["data"]["state"] == "failed", found
        assert "would run as root" in found["data"]["evidence"]
        _, alerts = await host.ask("GET", "/api/v1/alerts")
        assert "would run as root" in json.dumps(alerts["data"])
    finally:
        host.kill()
