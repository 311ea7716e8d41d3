"""What plugins keep on the disk of a real daemon: who takes too much is ended, and a purge leaves nothing."""

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from tests.e2e.conftest import Daemon, Signed

QUOTA = 64 * 2**20

BOX = '''"""Keeps what it is given, and shows what it finds."""
import os
from plugin_sdk import Plugin, service


class Box(Plugin):
    @service
    async def keep(self, text, context):
        """Keep a text in every place there is."""
        os.makedirs("below/shut")
        with open("below/kept", "w") as file:
            file.write(text)
        os.symlink("/etc", "below/link")
        os.mkdir("closed", 0)
        await context.kv.set("kept", text)
        print(text)

    @service
    async def found(self, context):
        """What there is."""
        return {"files": os.listdir("."), "keys": await context.kv.keys(""), "home": os.getcwd()}
'''
PROJECT = """[build-system]
requires = ["flit_core>=3.12"]
build-backend = "flit_core.buildapi"

[project]
name = "box"
version = "1.0.0"
description = "A box."

[project.entry-points."busbar.plugins"]
box = "box:Box"
"""
MANIFEST = '[plugin]\nid = "box"\ntitle = "Box"\n'


@pytest.fixture(scope="module")
def rival(tmp_path_factory):
    return Signed(tmp_path_factory.mktemp("rival"))


def box(signer, publisher, folder):
    """A wheel of the box, signed by this publisher."""
    (folder / "box").mkdir(parents=True)
    (folder / "box" / "__init__.py").write_text(BOX)
    (folder / "box" / "plugin.toml").write_text(MANIFEST)
    (folder / "pyproject.toml").write_text(PROJECT)
    wheel = signer.build(folder)
    if publisher != "acme":
        Path(f"{wheel}.intoto.jsonl").unlink()
        signer._busbar("plugin", "sign", wheel, "--key", signer.key, "--publisher", publisher)
    return wheel


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, rival, wheels):
    one = Daemon(
        tmp_path_factory.mktemp("disk"),
        runtime={"first_restart": "100ms", "longest_restart": "300ms", "restarts": 1000},
        breaker={"consecutive_failures": 1000, "minimum_calls": 1000},
        sandbox={"data": QUOTA},
    ).start()

    async def install():
        await one.trust(signed.public, ["saboteur", "box"])
        await one.trust(rival.public, ["box"], publisher="rival")
        status, answer = await one.install(wheels["saboteur"])
        assert status == 201, answer

    asyncio.run(install())
    yield one
    one.process.kill()
    one.process.wait(10)


async def _health(host, plugin="saboteur"):
    return (await host.ask("GET", f"/api/v1/plugins/{plugin}/health"))[1]["data"]


async def _running(host, plugin="saboteur"):
    async def running():
        return (await _health(host, plugin))["state"] == "running"

    await host.until(running)


async def _misbehave(host, mode):
    await _running(host)
    id_ = str(uuid.uuid4())
    status, answer = await host.publish("saboteur.command", data={"mode": mode}, id_=id_)
    assert status == 202, answer
    return id_


async def _given_up(host, id_):
    _, answer = await host.ask("GET", "/api/v1/dead-letters?plugin=saboteur&limit=100")
    return [one for one in answer["data"] if one["eventId"] == id_]


@pytest.mark.parametrize("mode", ["unlinked", "nest", "closed", "crumbs", "fill"])
async def test_a_worker_that_takes_more_of_the_disk_than_its_quota_is_ended(host, mode):
    # A plugin whose folder is full may only clear it, so every way begins with an empty one.
    assert (await host.ask("DELETE", "/api/v1/plugins/saboteur", params={"purge": "true"}))[0] == 200
    wheel = next(host.folder.parent.glob("wheels*/saboteur-*.whl"))
    assert (await host.install(wheel))[0] == 201
    seen = len(host.logged("plugin_runtime_ended"))
    # A hook has two seconds and two attempts: on a slow machine so many files take more than one command.
    for _ in range(5 if mode == "crumbs" else 1):
        id_ = await _misbehave(host, mode)

    async def ended():
        return host.logged("plugin_runtime_ended")[seen:]

    first = (await host.until(ended))[0]
    # What its owner has closed is open to root alone; to any other host it is what cannot be counted.
    cause = "uncountable data" if mode == "closed" and os.geteuid() else "disk quota"
    assert (first["plugin"], first["cause"]) == ("saboteur", cause), first
    if mode == "unlinked":
        assert "of them in files that it removed and still holds" in first["evidence"]
    await host.until(lambda: _given_up(host, id_))


async def test_blocks_cannot_be_kept_beyond_the_end_of_a_file(host):
    id_ = await _misbehave(host, "allocate")
    (letter,) = await host.until(lambda: _given_up(host, id_))
    # A full folder takes no file at all; an empty one takes no such call.
    assert "Operation not supported" in letter["reason"] or "PermissionError" in letter["reason"], letter


async def test_the_watch_has_died_of_nothing_of_all_this(host):
    _, answer = await host.ask("GET", "/health")
    assert answer["data"]["checks"]["background"] == {"status": "pass", "output": "", "responseTime": None}
    assert host.logged("part_ended") == host.logged("data_not_counted") == []


async def test_a_purge_leaves_nothing_to_the_next_publisher_of_the_id(host, signed, rival, tmp_path):
    mine, theirs = box(signed, "acme", tmp_path / "mine"), box(rival, "rival", tmp_path / "theirs")
    base = "/api/v1/plugins/box"
    status, answer = await host.install(mine)
    assert status == 201, answer
    kept = {"text": "of the first publisher"}
    status, answer = await host.ask("POST", f"{base}/call/keep", json_body=kept)
    assert status == 200, answer
    data = host.folder / "var" / "data"

    assert (await host.ask("DELETE", base))[0] == 200
    assert (data / "box" / "below" / "kept").exists()
    status, answer = await host.install(theirs)
    assert (status, answer["code"]) == (409, "release_publisher_changed")
    assert (await host.ask("DELETE", base, params={"purge": "true"}))[0] == 200
    assert (await host.ask("DELETE", base, params={"purge": "true"}))[0] == 404
    assert not [path for path in data.iterdir() if path.name not in {"saboteur", ".examined"}]
    assert list((data / ".examined").iterdir()) == []

    status, answer = await host.install(theirs)
    assert status == 201, answer
    _, answer = await host.ask("POST", f"{base}/call/found", json_body={})
    assert (answer["data"]["files"], answer["data"]["keys"]) == ([], [])
    assert (await host.ask("GET", f"{base}/logs"))[1]["data"] == []
    assert (await host.ask("GET", f"{base}/deliveries"))[1]["data"] == []


async def test_a_purge_that_a_kill_interrupts_is_finished_at_the_next_start(host, tmp_path):
    data = host.folder / "var" / "data"
    (data / ".removed-box-0123456789abcdef" / "below").mkdir(parents=True)
    (data / ".removed-box-0123456789abcdef" / "below" / "kept").write_text("of the first publisher")
    (data / ".examined" / "box.0").mkdir()
    host.kill()
    host.start()
    assert not [path for path in data.iterdir() if path.name.startswith(".")]
