"""The promise that matters: whatever is acknowledged is delivered, although the host is killed again and again.

`CRASH_ROUNDS` sets how often; `make crash` runs a thousand.
"""

import asyncio
import contextlib
import os
import random
import sqlite3

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
                status, _ = await self.host.publish("crash.test", id_=id_, session=session)
            except (aiohttp.ClientError, OSError):
                return
            assert status == 202
            self.acknowledged.add(id_)


def seen(host):
    """What was delivered, in order; `life` where the plugin was started."""
    return (host.folder / "var" / "data" / "witness" / "seen").read_text().splitlines()


def durable(host):
    """The events whose outcome the killed host had written."""
    with contextlib.closing(sqlite3.connect(host.folder / "var" / "busbar.db")) as database:
        return {row[0] for row in database.execute(DURABLE)}


async def one_life(host, publisher, rng):
    host.start()
    publishing = asyncio.create_task(publisher.run())
    await asyncio.sleep(rng.uniform(0.0, 0.4))
    await asyncio.to_thread(host.kill)
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
    settled = set()
    for _ in range(ROUNDS):
        before = len(seen(host))
        await one_life(host, publisher, rng)
        again = settled & set(seen(host)[before:])
        assert not again, "an event was delivered again although its outcome was durable"
        settled = durable(host)
    host.start()

    async def all_delivered():
        return publisher.acknowledged <= set(seen(host))

    await host.until(all_delivered, seconds=60)
    assert host.stop() == 0
    assert len(publisher.acknowledged) > ROUNDS
    lives = "\n".join(seen(host)).split("life\n")
    assert {one for life in lives for one in life.split()} <= publisher.sent, "an event was invented"
    for life in lives:
        assert len(set(life.split())) == len(life.split()), "an event was delivered twice by one life of the host"
