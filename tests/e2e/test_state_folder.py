"""What somebody did to the state folder while the host was down, or does while it runs: noticed, and never followed."""

import asyncio
import fcntl
import os
import resource
import signal
import sqlite3
import subprocess
import time

import aiohttp
import pytest

from tests.e2e.conftest import BUSBAR, ROOT, Daemon, Forked


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, wheels):
    """A host with a plugin and an event, that is down."""
    one = Daemon(tmp_path_factory.mktemp("state")).start()

    async def live():
        await one.trust(signed.public, ["heartbeat"])
        status, answer = await one.install(wheels["heartbeat"], enable=False)
        assert status == 201, answer
        assert (await one.publish("order.placed"))[0] == 202

    asyncio.run(live())
    assert one.stop() == 0
    yield one
    if one.process.poll() is None:
        one.kill()


@pytest.fixture(autouse=True)
def down(request):
    yield
    one = request.getfixturevalue("host") if "host" in request.fixturenames else None
    if one is not None and one.process.poll() is None:
        one.kill()


@pytest.fixture
def var(host):
    return host.folder / "var"


@pytest.fixture
def precious(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("kept")
    yield folder
    assert [(one.name, one.read_text()) for one in folder.iterdir()] == [("precious", "kept")]


def refused(host, seconds=20):
    """What a start that ends by itself says."""
    before = len(host.output.read_text())
    host.process = Forked(host.config, host.folder, host.output, host.footing)
    assert host.process.wait(seconds) == 1
    said = host.output.read_text()[before:]
    assert "Traceback" not in said
    assert "administrator token" not in said
    return said


def moved(path, aside):
    path.rename(aside)
    return aside


async def alerts(host):
    _, answer = await host.ask("GET", "/api/v1/alerts")
    return {alert["code"]: alert for alert in answer["data"]}


@pytest.mark.parametrize("name", ["staging", "releases", "data", "seals", "sdk"])
def test_a_folder_that_leads_elsewhere_is_not_followed(host, var, precious, tmp_path, name):
    (var / name).mkdir(exist_ok=True)
    aside = moved(var / name, tmp_path / "aside")
    (var / name).symlink_to(precious, target_is_directory=True)
    assert f"{name} is no folder" in refused(host)
    (var / name).unlink()
    aside.rename(var / name)
    host.start()


@pytest.mark.parametrize("name", ["lock", "busbar.db", "keyring"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_file_that_leads_elsewhere_is_not_followed_and_keeps_nobody_waiting(
    host, var, precious, tmp_path, name, kind
):
    aside = moved(var / name, tmp_path / "aside")
    if kind == "link":
        (var / name).symlink_to(precious / "precious")
    else:
        os.mkfifo(var / name)
    assert f"{name} is no plain file" in refused(host)
    (var / name).unlink()
    aside.rename(var / name)


@pytest.mark.parametrize("how", ["removed", "emptied", "made anew", "rows deleted", "restored by another host"])
async def test_an_empty_database_is_not_taken_for_a_new_host(host, var, tmp_path, how):
    aside = tmp_path / "aside.db"
    (var / "busbar.db").rename(aside)
    if how == "emptied":
        (var / "busbar.db").touch()
    elif how != "removed":
        other = Daemon(tmp_path)
        other.start()
        assert other.stop() == 0
        (tmp_path / "var" / "busbar.db").rename(var / "busbar.db")
        if how != "restored by another host":
            with sqlite3.connect(var / "busbar.db") as database:
                database.execute("DELETE FROM bootstrap")
                database.execute("DELETE FROM tokens")
                if how == "rows deleted":
                    database.execute("DELETE FROM seals")
            database.close()
    releases = sorted(one.name for one in (var / "releases").iterdir())
    assert releases
    if how == "restored by another host":  # it has a first token, so it is no empty one: what is wrong with it is said
        before = len(host.output.read_text())
        token = host.token
        host.start()
        assert "administrator token" not in host.output.read_text()[before:]
        assert "registry_tampered" in host.output.read_text()[before:]
        host.token = token
        assert host.stop() == 0
    else:
        assert "busbar state begin-anew" in refused(host)
    assert sorted(one.name for one in (var / "releases").iterdir()) == releases
    for name in ("busbar.db-wal", "busbar.db-shm"):
        (var / name).unlink(missing_ok=True)
    aside.rename(var / "busbar.db")
    host.start()
    assert (await host.ask("GET", "/api/v1/plugins"))[1]["pagination"]["total"] == 1
    assert host.stop() == 0


def test_a_keyring_that_is_gone_is_not_made_anew(host, var, tmp_path):
    aside = moved(var / "keyring", tmp_path / "aside")
    assert "is gone" in refused(host)
    assert not (var / "keyring").exists()
    aside.rename(var / "keyring")


async def test_a_write_ahead_log_that_is_gone_is_told(host, var):
    host.start()
    assert (await host.publish("order.placed"))[0] == 202
    host.kill()
    (var / "busbar.db-wal").unlink()
    host.start()
    found = await alerts(host)
    assert found.keys() & {"history_lost", "history_in_doubt"}
    _, trail = await host.ask("GET", "/api/v1/audit")
    assert trail["data"][0]["action"] == "database.check"
    assert host.stop() == 0
    host.start()
    assert not (await alerts(host)).keys() & {"history_lost", "history_in_doubt"}


async def test_what_is_taken_away_while_it_runs_is_told_and_a_second_daemon_kept_out(host, var):
    host.start()
    for name in ("lock", "busbar.db-wal"):
        (var / name).unlink()
    _, before = await host.ask("GET", "/api/v1/events")
    assert (await host.publish("order.placed"))[0] == 202

    async def told():
        return "state_file_taken_away" in await alerts(host)

    await host.until(told)
    first = host.process
    assert "another daemon uses" in refused(host)
    host.process = first
    assert host.stop() == 0
    host.start()
    _, after = await host.ask("GET", "/api/v1/events")
    assert after["pagination"]["total"] == before["pagination"]["total"] + 1
    assert not await alerts(host)


async def test_odd_files_of_an_operator_neither_hang_the_start_nor_the_stop(daemon, tmp_path):
    publishers, drop_ins = tmp_path / "publishers.d", tmp_path / "drop-ins"
    for folder in (publishers, drop_ins):
        folder.mkdir()
    host = daemon(supply={"publishers_directory": str(publishers), "drop_in_directory": str(drop_ins)})
    os.mkfifo(drop_ins / "acme_demo-1.0.0-py3-none-any.whl")
    os.mkfifo(publishers / "acme.toml")
    host.output.touch()
    assert "acme.toml is no plain file" in refused(host)
    (publishers / "acme.toml").unlink()
    host.start()

    async def told():
        return host.logged("drop_in_refused")

    await host.until(told)
    assert "is no plain file" in host.logged("drop_in_refused")[0]["reason"]
    os.mkfifo(publishers / "later.toml")

    async def noticed():
        return host.logged("publishers_not_loaded")

    await host.until(noticed)
    assert host.stop() == 0


def test_a_start_that_waits_heeds_a_signal(host, var):
    with sqlite3.connect(var / "busbar.db", isolation_level=None) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        host.process = Forked(host.config, host.folder, host.output, host.footing)
        _until_locked(var)
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(20) == 0
        assert "Traceback" not in host.output.read_text()
    database.close()
    host.start()


def _until_locked(var):
    """Wait until a daemon has the state folder to itself, which is before it opens the database."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        descriptor = os.open(var, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)
        time.sleep(0.005)
    raise AssertionError("no daemon took the state folder")


async def test_too_few_descriptors_are_not_recorded_as_tampering(host):
    host.start()
    pid = host.process.pid
    headers = {"Authorization": f"Bearer {host.token}"}
    async with aiohttp.ClientSession(host.url, headers=headers) as session:

        async def ask(method, path):
            async with session.request(method, path) as response:
                return (await response.json())["data"]

        assert (await ask("GET", "/api/v1/plugins/heartbeat"))["state"] == "disabled"
        used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        first_free = next(number for number in range(len(used) + 1) if number not in used)
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, hard))
        await ask("POST", "/api/v1/plugins/heartbeat/enable?wait=false")

        async def state(wanted):
            view = await ask("GET", "/api/v1/plugins/heartbeat")
            return view if view["state"] == wanted else None

        view = await host.until(lambda: state("backing-off"))
        assert view["cause"] == "storage_unavailable"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        await host.until(lambda: state("running"))
        trail = await ask("GET", "/api/v1/audit")
        assert not [entry for entry in trail if entry["action"] == "plugin.start"]
        await ask("POST", "/api/v1/plugins/heartbeat/disable")


def test_a_history_is_given_up_by_one_command_and_nothing_is_deleted(host, var):
    (var / "busbar.db").unlink()
    assert "begin-anew" in refused(host)

    def begin_anew(*options):
        return subprocess.run(
            [*BUSBAR, "state", "begin-anew", "--config", str(host.config), *options],
            cwd=host.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    asked = begin_anew()
    assert (asked.returncode, "say --yes" in asked.stderr) == (2, True)
    done = begin_anew("--yes")
    assert (done.returncode, "the next start is that of a new host" in done.stdout) == (0, True), done.stderr
    (given_up,) = var.glob("given-up-*")
    assert list((given_up / "releases").iterdir())
    host.output.write_text("")
    host.start()
    assert "administrator token" in host.output.read_text()
    running = begin_anew("--yes")
    assert (running.returncode, "another daemon uses" in running.stderr) == (1, True)


@pytest.fixture(scope="module")
def sabotaged(tmp_path_factory, signed, wheels):
    """A host with the saboteur running on it."""
    one = Daemon(tmp_path_factory.mktemp("sabotaged")).start()

    async def live():
        await one.trust(signed.public, ["saboteur"])
        status, answer = await one.install(wheels["saboteur"])
        assert status == 201, answer

    asyncio.run(live())
    yield one
    one.kill()


@pytest.mark.parametrize(
    ("what", "target"),
    [
        ("link", "staging"),
        ("link", "data/.examined"),
        ("link", "data/saboteur"),
        ("pipe", "seals/pipe"),
        ("remove", "lock"),
        ("remove", "busbar.db-wal"),
        ("remove", "seals/history"),
    ],
)
async def test_a_plugin_changes_nothing_of_the_state_folder(sabotaged, what, target):
    path = sabotaged.folder / "var" / target
    before = path.lstat() if path.exists() else None
    _, answer = await sabotaged.ask(
        "POST", "/api/v1/plugins/saboteur/call/attempt", json_body={"what": what, "target": str(path)}
    )
    assert answer["data"]["met"].startswith("PermissionError"), answer
    after = path.lstat() if path.exists() else None
    assert (before and (before.st_ino, before.st_mode)) == (after and (after.st_ino, after.st_mode))


async def test_a_plugin_that_uses_up_its_descriptors_is_not_taken_for_one_that_was_changed(sabotaged):
    assert (await sabotaged.publish("saboteur.command", data={"mode": "starve_import"}))[0] == 202

    async def tried():
        _, answer = await sabotaged.ask("GET", "/api/v1/plugins/saboteur/deliveries?limit=1")
        return answer["data"]

    (delivery,) = await sabotaged.until(tried)
    assert delivery["error"].count("Too many open files") == 1
    assert delivery["error"].endswith("; imported")
    assert (await sabotaged.ask("GET", "/api/v1/plugins/saboteur"))[1]["data"]["state"] == "running"
    _, trail = await sabotaged.ask("GET", "/api/v1/audit")
    assert not [entry for entry in trail["data"] if entry["action"] == "plugin.start"]
