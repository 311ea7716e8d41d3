"""What the host confines a worker to, and what it does where that cannot be had."""

import dataclasses
import os
import subprocess

import pytest
from aiohttp import web

from host.runtime.data_folder import usage
from host.runtime.egress import EgressBroker
from host.runtime.errors import HookFailedError, StartFailedError, WouldBeRootError
from host.runtime.examiner import WorkerExaminer
from host.runtime.process import WorkerRuntime
from host.runtime.runtime import RuntimeSnapshot
from host.runtime.sandbox import Sandbox, SandboxPolicy
from host.runtime.workshop import Workshop
from plugin_sdk.calls import Delivery, EventCall, ServiceCall
from plugin_sdk.errors import HostError
from plugin_sdk.events import new_event


@pytest.fixture
def sandboxed(launch, host, fork_server, sdk_path):
    async def make(entry_point="example_plugin:Example", **policy):
        one = WorkerRuntime(
            launch(entry_point),
            host,
            Workshop(fork_server, Sandbox(SandboxPolicy(**{"plugins_as_root": True, **policy}), sdk_path)),
            lambda *_: None,
        )
        await one.start()
        return one

    return make


async def test_a_required_sandbox_that_is_not_whole_loads_no_plugin(sandboxed, monkeypatch):
    monkeypatch.setattr(Sandbox, "_closed_to_others", lambda *_: "/somewhere cannot be entered by other users")
    if os.geteuid() != 0:
        pytest.skip("only a daemon that runs as root has another user to become")
    with pytest.raises(StartFailedError, match=r"the sandbox is required.*user: /somewhere cannot be entered") as met:
        await sandboxed(mode="require")
    assert not met.value.retryable


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only a daemon that is root has plugins that might be")


@as_root
@pytest.mark.parametrize("mode", ["require", "prefer", "off"])
async def test_a_plugin_that_would_be_root_does_not_start_and_nothing_waits_for_it(
    launch, host, fork_server, sdk_path, mode, tmp_path
):
    tmp_path.chmod(0o700)
    workshop = Workshop(fork_server, Sandbox(SandboxPolicy(mode=mode), sdk_path))
    one = WorkerRuntime(launch(), host, workshop, lambda *_: None)
    with pytest.raises(WouldBeRootError, match=r"would run as root.*sandbox\.plugins_as_root = true") as met:
        await one.start()
    assert not met.value.retryable
    assert one.exited.done()
    assert fork_server.pid is None
    with pytest.raises(WouldBeRootError):
        await WorkerExaminer(workshop, lambda _plugin: lambda *_: None).describe(launch())


@as_root
async def test_a_worker_that_finds_itself_root_loads_no_plugin_whatever_it_was_told(
    launch, host, fork_server, sdk_path, monkeypatch
):
    sandbox = Sandbox(SandboxPolicy(plugins_as_root=True), sdk_path)
    prepare = sandbox.prepare

    def forgetful(given):
        prepared = prepare(given)
        return dataclasses.replace(
            prepared, confinement=dataclasses.replace(prepared.confinement, user=0, user_missing="", as_root=False)
        )

    monkeypatch.setattr(sandbox, "prepare", forgetful)
    one = WorkerRuntime(launch(), host, Workshop(fork_server, sandbox), lambda *_: None)
    with pytest.raises(StartFailedError, match="it would run as root") as met:
        await one.start()
    assert not met.value.retryable


@as_root
async def test_a_plugin_that_may_be_root_says_that_its_sandbox_is_weaker(sandboxed, tmp_path):
    tmp_path.chmod(0o700)
    one = await sandboxed(plugins_as_root=True)
    (weaker,) = one.snapshot().weakened
    assert weaker.startswith("user: unavailable: ")
    assert "cannot be entered by other users: run `chmod o+x " in weaker
    await one.stop(1.0, 1.0)


@as_root
async def test_a_data_folder_that_was_another_users_is_roots_again_where_its_plugin_is_root(
    sandboxed, launch, tmp_path
):
    tmp_path.chmod(0o700)
    data = launch().data_folder
    data.mkdir(mode=0o700)
    (data / "old").write_text("old")
    for path in (data, data / "old"):
        os.chown(path, 1_900_000_000, 1_900_000_000)
    (tmp_path / "release" / "reading.py").write_text(
        "from pathlib import Path\nfrom plugin_sdk import Plugin, service\n"
        "class Reading(Plugin):\n"
        "    @service\n    async def read(self):\n        'Read the file.'\n        return Path('old').read_text()\n"
    )
    one = await sandboxed("reading:Reading", plugins_as_root=True)
    assert await one.call(ServiceCall("read", {})) == "old"
    await one.stop(1.0, 1.0)


def test_a_user_that_there_is_not_in_this_container_is_said_with_the_setting(launch, sdk_path, monkeypatch):
    sandbox = Sandbox(SandboxPolicy(), sdk_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Sandbox, "_closed_to_others", lambda *_: "")

    def no_such_user(*_arguments, **_options):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "chown", no_such_user)
    with pytest.raises(WouldBeRootError, match=r"cannot be given to user \d+ .*sandbox\.first_user"):
        sandbox.prepare(launch())


def test_what_is_off_or_unavailable_weakens_a_worker_and_an_inline_plugin_has_nothing_to_weaken():
    parts = {"files": "enforced", "user": "unavailable: why", "network": "off", "data": "full: of data"}
    seen = RuntimeSnapshot("process", "forked", 1, 1, 0, 0.0, 0.0, parts)
    assert seen.weakened == ("user: unavailable: why", "network: off")
    assert dataclasses.replace(seen, isolation="inline").weakened == ()


async def test_without_a_sandbox_a_worker_says_so(sandboxed):
    one = await sandboxed(mode="off")
    assert one.snapshot().sandbox["files"] == "off"
    assert one.snapshot().sandbox["session"] == "enforced"
    assert "files: off" in one.snapshot().weakened
    await one.stop(1.0, 1.0)


def test_a_plugin_has_the_same_user_every_time_and_another_than_its_neighbour(sdk_path):
    sandbox = Sandbox(SandboxPolicy(first_user=2_000_000), sdk_path)
    users = {sandbox._user(name) for name in ("a", "b", "c", "a")}
    assert len(users) == 3
    assert all(2_000_000 <= user < 2_000_000 + 2**27 for user in users)


def test_a_folder_that_others_cannot_enter_is_named_with_the_remedy(launch, sdk_path, tmp_path):
    closed = tmp_path / "release"
    closed.chmod(0o700)
    tmp_path.chmod(0o755)
    sandbox = Sandbox(SandboxPolicy(plugins_as_root=True), sdk_path)
    assert "cannot be entered by other users: run `chmod o+x " in sandbox._closed_to_others(launch())


async def test_a_full_data_folder_can_be_cleared_and_not_filled(sandboxed, launch, tmp_path):
    data = launch().data_folder
    data.mkdir()
    (data / "old").write_bytes(bytes(3 * 2**20))
    (tmp_path / "release" / "clearing.py").write_text(
        "from pathlib import Path\nfrom plugin_sdk import Plugin, service\n"
        "class Clearing(Plugin):\n"
        "    @service\n    async def add(self):\n        '''Add a file.'''\n        Path('new').write_text('x')\n"
        "    @service\n    async def clear(self):\n        '''Remove the file.'''\n        Path('old').unlink()\n"
    )
    one = await sandboxed("clearing:Clearing", data=2**20)
    assert one.snapshot().sandbox["data"].startswith("full: over 1048576 bytes")
    with pytest.raises(Exception, match="PermissionError"):
        await one.call(ServiceCall("add", {}))
    await one.call(ServiceCall("clear", {}))
    await one.stop(1.0, 1.0)
    again = await sandboxed("clearing:Clearing", data=2**20)
    await again.call(ServiceCall("add", {}))
    assert "data" not in again.snapshot().sandbox
    await again.stop(1.0, 1.0)


def test_usage_counts_what_is_on_the_disk_and_follows_no_link(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(8192))
    (tmp_path / "link").symlink_to("/usr")
    assert 8192 <= usage(tmp_path) < 65536


async def test_a_plugin_with_its_own_version_of_a_library_of_the_sdks_starts_cold(launch, host, workshop, tmp_path):
    library = tmp_path / "release" / "packaging"
    library.mkdir()
    (library / "__init__.py").write_text("__version__ = 'its own'\n")
    original = next(path for path in (workshop.sandbox._sdk_path / "packaging").iterdir() if path.suffix == ".py")
    subprocess.run(["cp", "-rn", f"{original.parent}/.", str(library)], check=True)
    (tmp_path / "release" / "own.py").write_text(
        "import os\nimport packaging\nfrom plugin_sdk import Plugin, service\n"
        "class Own(Plugin):\n"
        "    @service\n    async def version(self):\n        '''Which.'''\n        return packaging.__version__\n"
        "    @service\n    async def shadow(self):\n        '''Try it.'''\n        return open('/etc/shadow').read()\n"
    )
    one = WorkerRuntime(launch("own:Own"), host, workshop, lambda *_: None)
    await one.start()
    assert one.snapshot().started == "cold"
    assert await one.call(ServiceCall("version", {})) == "its own"
    assert one.snapshot().sandbox["files"] == "enforced"
    with pytest.raises(Exception, match="PermissionError"):
        await one.call(ServiceCall("shadow", {}))
    await one.stop(1.0, 1.0)


async def test_a_plugin_that_brings_nothing_of_the_sdks_is_forked(sandboxed):
    one = await sandboxed()
    assert one.snapshot().started == "forked"
    event = EventCall(new_event("example.event", source="/tests"), Delivery("example/act/1", "act", 1, 1))
    assert await one.call(event) is None
    await one.stop(1.0, 1.0)


REACHING = """
import socket, urllib.request
from plugin_sdk import Plugin, service

class Reaching(Plugin):
    @service
    async def fetch(self, context, url):
        \"\"\"By the plugin's own client.\"\"\"
        async with context.http.get(url) as answer:
            return await answer.text()

    @service
    def fetch_by_proxy(self, url):
        \"\"\"By another library, which looks for a proxy.\"\"\"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()

    @service
    def connect(self, host, port):
        \"\"\"Past the proxy.\"\"\"
        socket.create_connection((host, port), timeout=2).close()
"""


async def test_a_granted_host_is_reached_through_the_door_and_nothing_else_is(
    launch, host, fork_server, sdk_path, tmp_path
):
    async def answer(_request):
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    (tmp_path / "release" / "reaching.py").write_text(REACHING)
    broker = EgressBroker()
    workshop = Workshop(fork_server, Sandbox(SandboxPolicy(plugins_as_root=True), sdk_path), egress=broker)
    granted = dataclasses.replace(launch("reaching:Reaching"), network=(f"localhost:{port}",), timeout=20.0)
    one = WorkerRuntime(granted, host, workshop, lambda *_: None)
    await one.start()
    assert one.snapshot().sandbox["network"] == "enforced"
    assert await one.call(ServiceCall("fetch", {"url": f"http://localhost:{port}/"})) == "hello"
    assert await one.call(ServiceCall("fetch_by_proxy", {"url": f"http://localhost:{port}/"})) == "hello"
    with pytest.raises(HostError, match="localhost:1 is not granted"):
        await one.call(ServiceCall("fetch", {"url": "http://localhost:1/"}))
    for target in (("127.0.0.1", port), ("192.0.2.1", 80)):
        with pytest.raises(HookFailedError, match="PermissionError"):
            await one.call(ServiceCall("connect", {"host": target[0], "port": target[1]}))
    assert broker.counts("example").connections == 2
    assert broker.counts("example").refused == {"network_not_granted": 1}
    await one.stop(1.0, 1.0)
    await runner.cleanup()
