"""The promise that matters: whatever is acknowledged is delivered, although the host is killed again and again.

In many lives of the host, the process that writes its log or the plugin's worker is killed before, once or twice.
`CRASH_ROUNDS` sets how many lives there are; `make crash` runs a thousand.
"""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
from pathlib import Path

import aiohttp
import pytest
from plugin_projects import write_project

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "60"))
CONNECTIONS = 8
DURABLE = """
SELECT id FROM events, cursors WHERE subscription = 'witness/see' AND sequence <= position
UNION SELECT id FROM events JOIN settled_ahead USING (sequence) WHERE subscription = 'witness/see'
EXCEPT SELECT id FROM events JOIN retries USING (sequence) WHERE subscription = 'witness/see'
"""
"""Events whose outcome is durable: after a kill, none of them was in flight."""

WITNESS = '''"""Writes down every delivery, in a file that outlives it."""
import os
from pathlib import Path

from plugin_sdk import Plugin, on_event


class Witness(Plugin):
    async def start(self, context):
        self.file = os.open(Path.cwd() / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self.file, b"life\\n")

    @on_event("crash.test")
    async def see(self, event):
        os.write(self.file, event.id.encode() + b"\\n")
'''


class Publisher:
    """Publishes as fast as it can, and knows what was acknowledged."""

    def __init__(self, host):
        self.host = host
        self.sent = set()
        self.acknowledged = set()

    async def run(self):
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._publish(session))

    async def _publish(self, session):
        while True:
            id_ = f"{random.getrandbits(64):016x}"
            self.sent.add(id_)
            try:
                status, answer = await self.host.publish("crash.test", id_=id_, session=session)
            except (aiohttp.ClientError, OSError):
                return
            if status == 202:
                self.acknowledged.add(id_)
            else:  # a writer that was killed once too often is waited for; the event may be there all the same
                assert (status, answer["code"]) == (503, "storage_unavailable"), answer


def seen(host):
    """What was delivered, in order; `life` where the plugin was started."""
    return (host.folder / "var" / "data" / "witness" / "seen").read_text().splitlines()


def durable(host):
    """The events whose outcome the killed host had written."""
    with contextlib.closing(sqlite3.connect(host.folder / "var" / "busbar.db")) as database:
        return {row[0] for row in database.execute(DURABLE)}


def parts(host):
    """The processes of a host that may be killed beside it: the one that writes its log, and the plugin's worker."""
    own = [one for one in Path("/proc").iterdir() if one.name.isdigit()]
    found = {"writer": [], "worker": []}
    for one in own:
        with contextlib.suppress(OSError, IndexError):
            parent = int(one.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            command = one.joinpath("cmdline").read_bytes()
            if parent == host.process.pid and b"log_writer" in command:
                found["writer"].append(int(one.name))
            elif b"fork_server" in command and parent != host.process.pid:
                grand = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
                if grand == host.process.pid:
                    found["worker"].append(int(one.name))
    return found


async def kill_parts(host, rng, killed):
    """Kill the writer or the worker, at random moments of the host's life."""
    for _ in range(rng.choice((0, 0, 1, 2))):
        await asyncio.sleep(rng.uniform(0.0, 0.3))
        part = rng.choice(("writer", "worker"))
        for pid in parts(host)[part]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed[part] += 1


async def one_life(host, publisher, rng, killed):
    host.start()
    publishing = asyncio.create_task(publisher.run())
    killing = asyncio.create_task(kill_parts(host, rng, killed))
    await asyncio.sleep(rng.uniform(0.0, 0.4))
    await asyncio.to_thread(host.kill)
    killing.cancel()
    await asyncio.wait((killing,))
    with contextlib.suppress(asyncio.CancelledError):
        await publishing


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_every_acknowledged_event_is_delivered_although_the_host_is_killed_at_any_instant(
    daemon, signed, tmp_path
):
    host = daemon()
    wheel = signed.build(
        write_project(tmp_path, "witness", WITNESS, manifest='[permissions]\nsubscribe = ["crash.*"]\n')
    )
    host.start()
    await host.trust(signed.public, ["witness"])
    status, answer = await host.install(wheel)
    assert status == 201, answer
    host.kill()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    publisher = Publisher(host)
    settled, killed = set(), {"writer": 0, "worker": 0}
    for _ in range(ROUNDS):
        before = len(seen(host))
        await one_life(host, publisher, rng, killed)
        again = settled & set(seen(host)[before:])
        assert not again, "an event was delivered again although its outcome was durable"
        settled = durable(host)
    host.start()

    async def all_delivered():
        return publisher.acknowledged <= set(seen(host))

    await host.until(all_delivered, seconds=60)
    assert host.stop() == 0
    print(f"killed beside the host: {killed}")
    assert len(publisher.acknowledged) > ROUNDS
    assert killed["writer"]
    lives = "\n".join(seen(host)).split("life\n")
    assert {one for life in lives for one in life.split()} <= publisher.sent, "an event was invented"
    for life in lives:
        assert len(set(life.split())) == len(life.split()), "an event was delivered twice by one life of the host"
