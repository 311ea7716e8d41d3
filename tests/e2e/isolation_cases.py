"""Isolation: whatever one plugin does, it gets what it deserves, and ten others beside it lose no event.

These are the cases; the files `test_isolation*.py` run them, each on one footing: `FOOTING` in such a file. One real
daemon with real workers for a whole file; the saboteur misbehaves in one way at a time, then in all at once, while the
bystanders are under load.
"""

import asyncio
import socket
import uuid
from pathlib import Path

import aiohttp
import pytest
from footing import Footing, usual
from saboteur.modes import MODES

from tests.e2e.conftest import Daemon

BYSTANDERS = [f"bystander-{number}" for number in range(10)]
EVENTS = 30
FEWER_EVENTS = 6
"""On the other footings: what differs there is the sandbox, and not how events are delivered."""

BYSTANDER = '''"""Remembers which events it has had."""
from plugin_sdk import Plugin, on_event, service


class Bystander(Plugin):
    def __init__(self):
        super().__init__()
        self._seen = []

    @on_event("bystander.*")
    async def see(self, event):
        self._seen.append(event.id)

    @service
    async def seen(self):
        """The ids of the events that this process has had."""
        return self._seen
'''
PROJECT = """[build-system]
requires = ["flit_core>=3.12"]
build-backend = "flit_core.buildapi"

[project]
name = "{id}"
version = "1.0.0"
description = "Stands by."

[project.entry-points."busbar.plugins"]
{id} = "{module}:Bystander"
"""
MANIFEST = '[plugin]\nid = "{id}"\ntitle = "Bystander"\n\n[permissions]\nsubscribe = ["bystander.*"]\n'


@pytest.fixture(scope="module")
def bystander_wheels(signed, tmp_path_factory):
    made = []
    for id_ in BYSTANDERS:
        module = id_.replace("-", "_")
        project = tmp_path_factory.mktemp(id_)
        (project / module).mkdir()
        (project / module / "__init__.py").write_text(BYSTANDER)
        (project / module / "plugin.toml").write_text(MANIFEST.format(id=id_))
        (project / "pyproject.toml").write_text(PROJECT.format(id=id_, module=module))
        made.append(signed.build(project))
    return made


@pytest.fixture(scope="module")
def host(request, tmp_path_factory, signed, wheels, bystander_wheels):
    footing = request.module.FOOTING
    if not footing.possible:
        pytest.skip(f"a daemon cannot run here {footing.value}")
    one = Daemon(
        tmp_path_factory.mktemp("isolation"),
        footing=footing,
        runtime={
            "silence": "1s",
            "first_restart": "100ms",
            "longest_restart": "300ms",
            "restarts": 1000,
            "overdue": "1s",
        },
        breaker={"consecutive_failures": 1000, "minimum_calls": 1000},
        sandbox={"data": "64MiB", "plugins_as_root": footing in {Footing.AS_IT_IS, Footing.CLOSED}},
        limits={"unread": "1s"},
    ).start()

    async def install():
        await one.trust(signed.public, ["saboteur", *BYSTANDERS])
        for wheel in (wheels["saboteur"], *bystander_wheels):
            status, answer = await one.install(wheel)
            assert status == 201, answer

    asyncio.run(install())
    yield one
    one.process.kill()
    one.process.wait(10)


async def _health(host, plugin):
    _, answer = await host.ask("GET", f"/api/v1/plugins/{plugin}/health")
    return answer["data"]


async def _call(host, plugin, method, **arguments):
    return await host.ask("POST", f"/api/v1/plugins/{plugin}/call/{method}", json_body=arguments)


async def _running(host, plugin="saboteur"):
    async def running():
        return (await _health(host, plugin))["state"] == "running"

    await host.until(running)


async def _attempt(host, what, target=""):
    await _running(host)
    status, answer = await _call(host, "saboteur", "attempt", what=what, target=str(target))
    assert status == 200, answer
    return answer["data"]


class Load:
    """Events for the bystanders while something else happens; at the end every one of them must have had each."""

    def __init__(self, host):
        self.host = host
        self.ids = []

    async def __aenter__(self):
        self.before = {id_: (await _health(self.host, id_))["worker"]["pid"] for id_ in BYSTANDERS}
        self.session = aiohttp.ClientSession()
        self.publishing = asyncio.create_task(self._publish())
        return self

    async def _publish(self):
        for _ in range(EVENTS if self.host.footing is usual() else FEWER_EVENTS):
            id_ = str(uuid.uuid4())
            status, answer = await self.host.publish("bystander.event", id_=id_, session=self.session)
            assert status == 202, answer
            self.ids.append(id_)
            await asyncio.sleep(0.03)

    async def __aexit__(self, kind, *_):
        if kind is not None:
            self.publishing.cancel()
        await asyncio.wait((self.publishing,))
        await self.session.close()
        if kind is not None:
            return
        self.publishing.result()
        for id_ in BYSTANDERS:

            async def had(id_=id_):
                _, answer = await _call(self.host, id_, "seen")
                return set(self.ids) <= set(answer.get("data") or ())

            await self.host.until(had, seconds=20)
            health = await _health(self.host, id_)
            assert (health["worker"]["pid"], health["restarts"]) == (self.before[id_], 0)


async def _misbehave(host, mode):
    """Publish the command; its event's id."""
    id_ = str(uuid.uuid4())
    status, answer = await host.publish("saboteur.command", data={"mode": mode}, id_=id_)
    assert status == 202, answer
    return id_


async def _outcome(host, id_):
    """How the first attempt at this event ended."""
    found = []

    async def tried():
        _, answer = await host.ask("GET", "/api/v1/plugins/saboteur/deliveries?limit=100")
        found[:] = [one for one in answer["data"] if one["eventId"] == id_]
        return found

    await host.until(tried)
    return min(found, key=lambda one: one["attempt"])["error"]


@pytest.mark.parametrize(
    ("mode", "got"),
    [
        ("raise", "RuntimeError: sabotage"),
        ("sysexit", "SystemExit: 4"),
        ("hang", "did not end within 2 s"),
        ("fork", "PermissionError: [Errno 1] Operation not permitted"),
        ("descriptors", "OSError: [Errno 24] Too many open files"),
        ("flood", "more than 500 times a second"),
        ("hoard", "more than 500 times a second"),
        ("nan", "finite number of seconds"),
        ("soon", "TypeError: Retry takes seconds first"),
        ("surrogate", "ValueError: \\udcff"),
        ("unspeakable", "cannot be described"),
        ("cancelled", "CancelledError"),
    ],
)
async def test_a_hook_that_misbehaves_fails_alone(host, mode, got):
    await _running(host)
    async with Load(host):
        error = await _outcome(host, await _misbehave(host, mode))
        assert got in error, error


@pytest.mark.parametrize(
    ("mode", "cause", "evidence"),
    [
        ("block", "blocked loop", "silent for over 1 s"),
        ("spin", "blocked loop", "silent for over 1 s"),
        ("stubborn", "deadline", "after its time was up"),
        ("exit", "exit", "ended with status 3"),
        ("segfault", "signal", "SIGSEGV"),
        ("leak", "out of memory", "are more than"),
        ("fill", "disk quota", "in its data folder"),
        ("garbage", "protocol error", "MessagePack|frame of"),
        ("unread", "protocol error", "left unread"),
        ("numbers", "protocol error", "Expected `float`"),
        # What they write in pieces, a heartbeat of the worker's own may come in the middle of.
        ("verbose", "protocol error", "Expected `str` of length|codec can't decode|frame of|MessagePack"),
        ("levels", "protocol error", "Expected `str` of length|codec can't decode|frame of|MessagePack"),
        ("deaf", "protocol error", "left unread|requests at once"),
    ],
)
async def test_a_worker_that_cannot_go_on_is_ended_and_started_again(host, mode, cause, evidence):
    await _running(host)
    before = (await _health(host, "saboteur"))["restarts"]
    seen = len(host.logged("plugin_runtime_ended"))
    async with Load(host):
        id_ = await _misbehave(host, mode)

        async def restarted():
            return (await _health(host, "saboteur"))["restarts"] > before

        await host.until(restarted)
        ended = host.logged("plugin_runtime_ended")[seen]
        assert ended["plugin"] == "saboteur"
        assert ended["cause"] == cause, ended
        assert any(part in ended["evidence"] for part in evidence.split("|")), ended
    # The command fails its second and last attempt, and then there is peace.
    await host.until(lambda: _given_up(host, id_), seconds=40)
    await _running(host)


async def _given_up(host, id_):
    _, answer = await host.ask("GET", "/api/v1/dead-letters?plugin=saboteur&limit=100")
    return any(one["eventId"] == id_ for one in answer["data"])


async def test_odd_log_records_cost_the_hook_nothing(host):
    await _running(host)
    async with Load(host):
        assert await _outcome(host, await _misbehave(host, "record")) == ""


@pytest.mark.parametrize(
    "wide", [2**64, -(2**63) - 1, 10**300, [{"deep": 2**70}]], ids=["64", "-63", "300 digits", "deep"]
)
async def test_an_event_with_numbers_that_no_machine_word_holds_reaches_everybody(host, wide):
    id_ = str(uuid.uuid4())
    status, answer = await host.publish("bystander.event", data=wide, id_=id_)
    assert status == 202, answer
    for bystander in BYSTANDERS[:2]:

        async def had(bystander=bystander):
            _, answer = await _call(host, bystander, "seen")
            return id_ in (answer.get("data") or ())

        await host.until(had)


async def test_threads_without_end_meet_a_limit_or_starve_their_own_loop(host):
    await _running(host)
    async with Load(host):
        error = await _outcome(host, await _misbehave(host, "threads"))
        assert "can't start new thread" in error or "blocked loop" in error, error
    await host.ask("POST", "/api/v1/plugins/saboteur/restart")


@pytest.mark.parametrize("mode", ["chatter", "heartbeats"])
async def test_a_flood_of_lines_or_messages_is_slowed_down_and_said(host, mode):
    await _running(host)
    async with Load(host):
        await _misbehave(host, mode)
        word = {"chatter": "plugin_log_dropped", "heartbeats": "worker_slowed_down"}[mode]
        await host.until(lambda: _true(host.logged(word)))
    await host.ask("POST", "/api/v1/plugins/saboteur/restart")


async def _true(found):
    return bool(found)


async def test_a_blocked_worker_leaves_the_stack_that_blocked_it(host):
    await _running(host)
    await _misbehave(host, "block")

    async def known():
        health = await _health(host, "saboteur")
        return "in block" in health["lastStack"] and "saboteur/modes/hooks.py" in health["lastStack"]

    await host.until(known)


@pytest.mark.parametrize(
    ("what", "target", "met"),
    [
        ("read", "/etc/shadow", "PermissionError"),
        ("read", "{var}/busbar.db", "PermissionError"),
        ("read", "{var}/key-values.db", "PermissionError"),
        ("read", "{var}/keyring", "PermissionError"),
        ("list", "{var}/data", "PermissionError"),
        ("list", "{var}/data/bystander-1", "PermissionError"),
        ("write", "{var}/data/bystander-1/planted", "PermissionError"),
        ("write", "{release}/saboteur/__init__.py", "PermissionError"),
        ("read", "/proc/{daemon}/environ", "PermissionError"),
        ("read", "/proc/{daemon}/cmdline", "PermissionError"),
        ("run", "/bin/true", "PermissionError"),
        ("connect", "127.0.0.1:{port}", "PermissionError"),
        ("connect", "127.0.0.1:{listening}", "PermissionError"),
        ("datagram", "127.0.0.1:{listening}", "PermissionError"),
        ("connect_unix", "{socket}", "PermissionError"),
        ("listen", "0", "PermissionError"),
        ("signal", "", "PermissionError"),
        ("signal", "{daemon}", "PermissionError"),
        ("signal", "{bystander}", "PermissionError"),
        ("trace", "{daemon}", "PermissionError"),
        ("limit", "{daemon}", "PermissionError"),
        ("mount", "/mnt", "PermissionError"),
        ("unshare", "", "PermissionError"),
    ],
)
async def test_what_a_plugin_may_not_reach_is_refused(host, what, target, met, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        address = f"/tmp/busbar-{uuid.uuid4().hex}.sock"  # noqa: S108 - a socket's path must be short
        unix.bind(address)
        unix.listen()
        values = {
            "var": host.folder / "var",
            "release": next((host.folder / "var" / "releases").glob("*/*/saboteur")).parent,
            "daemon": host.process.pid,
            "bystander": (await _health(host, "bystander-1"))["worker"]["pid"],
            "port": host.port,
            "listening": server.getsockname()[1],
            "socket": address,
        }
        try:
            found = await _attempt(host, what, target.format(**values))
        finally:
            Path(address).unlink()
    assert found["got"] == ""
    assert found["met"].startswith(met), found
    assert host.process.poll() is None


async def test_a_worker_holds_its_own_socket_and_sees_no_environment_of_the_host(host):
    assert (await _attempt(host, "held"))["got"].split(", ").count("socket") <= 3  # its own, and its loop's pair
    seen = (await _attempt(host, "environment"))["got"].split(", ")
    assert set(seen) <= {"HOME", "TMPDIR", "PATH", "LANG", "LC_ALL", "TZ", "LC_CTYPE"}


async def test_health_says_of_each_part_of_the_sandbox_what_became_of_it(host):
    sandbox = (await _health(host, "bystander-0"))["worker"]["sandbox"]
    assert set(sandbox) == {
        *("session", "descriptors", "limits", "files", "network", "user", "privileges", "systemCalls"),
    }
    assert all(found == "enforced" or found.startswith("unavailable: ") for found in sandbox.values()), sandbox


@pytest.mark.parametrize("mode", ["hurry", "misuse", "crowd"])
async def test_a_bad_caller_harms_nobody_it_calls(host, mode):
    """Calls that are cut off, fit no signature, or come in a crowd: the callee gets its events all the same."""
    await _running(host)
    async with Load(host):
        assert await _outcome(host, await _misbehave(host, mode)) == ""
    _, answer = await host.ask("GET", "/api/v1/plugins/bystander-0/breaker")
    assert {name: share["state"] for name, share in answer["data"]["shares"].items()} == {
        "deliveries": "closed",
        "calls": "closed",
        "requests": "closed",
    }


@pytest.mark.parametrize("mode", ["nonsense", "malformed"])
async def test_what_is_no_json_is_refused_to_whoever_sends_it(host, mode):
    await _running(host)
    before = (await _health(host, "saboteur"))["restarts"]
    async with Load(host):
        assert await _outcome(host, await _misbehave(host, mode)) == ""
    _, answer = await host.ask("GET", "/api/v1/events/malformed")
    assert answer["code"] == "event_not_found", answer
    assert (await _health(host, "saboteur"))["restarts"] == before


@pytest.mark.parametrize("what", ["surrogate", "large", "nothing"])
async def test_an_answer_that_is_none_is_the_plugins_failure(host, what):
    await _running(host)
    status, answer = await _call(host, "saboteur", "attempt", what=what)
    assert (status, answer["code"]) == (502, "plugin_answer_invalid"), answer
    await _running(host)


@pytest.mark.parametrize("mode", ["unlinked", "nest", "closed"])
async def test_the_disk_is_counted_as_the_kernel_counts_it(host, wheels, mode):
    await _emptied(host, wheels)
    seen = len(host.logged("plugin_runtime_ended"))
    async with Load(host):
        await _misbehave(host, mode)

        async def ended():
            return host.logged("plugin_runtime_ended")[seen:]

        first = (await host.until(ended))[0]
    # What its owner has closed is open to root alone; to any other host it is what cannot be counted.
    unseen = mode == "closed" and host.footing is Footing.UNPRIVILEGED
    assert (first["plugin"], first["cause"]) == ("saboteur", "uncountable data" if unseen else "disk quota"), first
    _, answer = await host.ask("GET", "/health")
    assert answer["data"]["checks"]["background"]["status"] == "pass", answer
    await _emptied(host, wheels)


async def _emptied(host, wheels):
    """The saboteur anew, with nothing on the disk: where its folder is full it may only clear it."""
    assert (await host.ask("DELETE", "/api/v1/plugins/saboteur?purge=true"))[0] == 200
    status, answer = await host.install(wheels["saboteur"])
    assert status == 201, answer
    await _running(host)


async def test_every_way_at_once_and_the_others_lose_nothing(host, wheels):
    await _running(host)
    async with Load(host):
        for mode in MODES:
            await _misbehave(host, mode)
    status, answer = await host.ask("GET", "/livez")
    assert status == 200, answer
    await _emptied(host, wheels)
    _, answer = await host.ask("GET", "/health")
    assert answer["data"]["checks"]["background"]["status"] == "pass", answer
