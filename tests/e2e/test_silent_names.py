"""One plugin asks for names that nobody answers, odd ones, and all at once: the others' way out and the host's end."""

import asyncio
import shutil
import socket

import pytest

from tests.e2e.conftest import ROOT, Daemon

CALLER = '''"""Fetches what it is told to."""
from plugin_sdk import Plugin, service


class Caller(Plugin):
    @service
    async def fetch(self, url, context):
        """A page's status."""
        async with context.http.get(url) as answer:
            return answer.status
'''
PROJECT = """[build-system]
requires = ["flit_core>=3.12"]
build-backend = "flit_core.buildapi"

[project]
name = "caller"
version = "1.0.0"
description = "Calls."

[project.entry-points."busbar.plugins"]
caller = "caller:Caller"
"""


@pytest.fixture(scope="module")
def silent():
    """A name server that takes questions, and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        yield server


@pytest.fixture(scope="module")
def projects(signed, tmp_path_factory):
    """The saboteur with a way out, and a caller beside it."""
    saboteur = shutil.copytree(ROOT / "plugins" / "saboteur", tmp_path_factory.mktemp("granted") / "saboteur")
    manifest = saboteur / "saboteur" / "plugin.toml"
    text = manifest.read_text(encoding="utf-8")
    granted = text.replace("[permissions]\n", '[permissions]\nnetwork = ["*:443"]\n')
    assert granted != text
    manifest.write_text(granted, encoding="utf-8")
    caller = tmp_path_factory.mktemp("caller")
    (caller / "caller").mkdir()
    (caller / "caller" / "__init__.py").write_text(CALLER)
    return saboteur, caller


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, projects, silent):
    saboteur, caller = projects
    address = "{}:{}".format(*silent.getsockname())
    one = Daemon(tmp_path_factory.mktemp("silent"), sandbox={"nameservers": [address]}, server={"drain": "1s"})
    (caller / "caller" / "plugin.toml").write_text(
        f'[plugin]\nid = "caller"\ntitle = "Caller"\n\n[permissions]\nnetwork = ["localhost:{one.port}"]\n'
    )
    (caller / "pyproject.toml").write_text(PROJECT)
    wheels = signed.build(saboteur), signed.build(caller)
    one.start(cold=True)  # the command itself, for what is looked at is how its process ends

    async def install():
        await one.trust(signed.public, ["saboteur", "caller"])
        for wheel in wheels:
            status, answer = await one.install(wheel)
            assert status == 201, answer

    asyncio.run(install())
    yield one
    if one.process.poll() is None:
        one.process.kill()
        one.process.wait(10)


async def _command(host, mode):
    status, answer = await host.publish("saboteur.command", data={"mode": mode})
    assert status == 202, answer


async def _reaches(host):
    """The caller reaches the host's own probe, through its door and by a name."""
    url = f"http://localhost:{host.port}/livez"
    status, answer = await host.ask("POST", "/api/v1/plugins/caller/call/fetch", json_body={"url": url})
    assert (status, answer.get("data")) == (200, 200), answer


async def _door_answers(host, target, expected):
    status, answer = await host.ask(
        "POST", "/api/v1/plugins/saboteur/call/attempt", json_body={"what": "ask_door", "target": target}
    )
    assert status == 200, answer
    assert answer["data"]["got"].startswith(f"HTTP/1.1 {expected} "), answer


async def _outcomes(host):
    _, answer = await host.ask("GET", "/api/v1/plugins/saboteur/deliveries?limit=100")
    return [one["outcome"] for one in answer["data"]]


async def test_after_odd_names_the_door_is_as_open_as_before(host):
    await _command(host, "odd_names")

    async def tried():
        return await _outcomes(host)

    assert await host.until(tried) == ["delivered"]  # each was refused: the mode complains of anything else
    await _door_answers(host, "a..b:443", 400)
    await _door_answers(host, "127.0.0.1:443", 403)
    await _reaches(host)
    assert host.logged("egress_connection_failed") == []


async def test_a_flood_at_one_door_is_nothing_to_the_other(host):
    await _command(host, "door_flood")
    await _reaches(host)
    await host.until(lambda: _count(host, 2))


async def _count(host, number):
    return len(await _outcomes(host)) >= number


async def test_silent_names_keep_neither_the_others_from_theirs_nor_the_host_from_ending(host, silent):
    await _command(host, "silent_names")
    for _ in range(4):
        await asyncio.to_thread(silent.recv, 512)  # they are being asked about
    await _reaches(host)
    await _reaches(host)
    assert host.stop() == 0
    assert "stopped" in host.output.read_text().splitlines()[-1]
