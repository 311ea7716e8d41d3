"""How late ten well-behaved plugins get their events while the saboteur misbehaves, beside when it does not.

Latency is from just before the request to publish until the hook is entered, at the 99th percentile of all ten
plugins. Every mode that the saboteur has is measured between two quiet phases, whose mean is its peer, and begins with
a saboteur that has nothing on the disk: one whose folder is full may only clear it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks.daemon import ROOT, Daemon, daemon
from benchmarks.measure import Figure

NAME: Final = "noise"
BYSTANDERS: Final = [f"bystander-{number}" for number in range(10)]
EVENTS_PER_SECOND: Final = 50
PHASE_SECONDS: Final = 4.0
COMMAND_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 1.0
"""After each mode: what it has left is cleared away, and what the machine holds of it gets to the disk."""
_SETTINGS: Final = """
[runtime]
first_restart = "200ms"
longest_restart = "1s"
restarts = 1000
[breaker]
consecutive_failures = 1000
minimum_calls = 1000
"""
_MODULE: Final = '''"""Remembers how late its events come."""
import time

from plugin_sdk import Plugin, on_event, service


class Bystander(Plugin):
    def __init__(self):
        super().__init__()
        self._late = []

    @on_event("bystander.*")
    async def see(self, event):
        self._late.append(time.time() - event.data["sent"])

    @service
    async def latencies(self):
        """Seconds, of each event since this was asked the last time."""
        late, self._late = self._late, []
        return late

    @service
    async def seen(self):
        """What a bad caller asks for."""
        return 0
'''
_MANIFEST: Final = '[plugin]\nid = "{id}"\ntitle = "Bystander"\n\n[permissions]\nsubscribe = ["bystander.*"]\n'


def run(modes: Sequence[str] = ()) -> Iterable[Figure]:
    """Measure these modes, or each that the saboteur has; one figure for each, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="busbar-noise-") as name, daemon(Path(name), _SETTINGS) as host:
        host.trust("saboteur", *BYSTANDERS)
        saboteur = host.build(ROOT / "plugins" / "saboteur")
        for id_ in BYSTANDERS:
            host.install_module(id_, "Bystander", _MODULE, _MANIFEST.format(id=id_))
        host.install(saboteur)
        with asyncio.Runner() as runner:
            runner.run(_phase(host, None))  # everything is warm then
            quiet = runner.run(_phase(host, None))
            for mode in modes or host.ask("/api/v1/plugins/saboteur/call/modes", b"{}"):
                during = runner.run(_phase(host, mode))
                host.ask("/api/v1/plugins/saboteur?purge=true", method="DELETE")
                host.install(saboteur)
                time.sleep(SETTLE_SECONDS)
                after = runner.run(_phase(host, None))
                yield Figure(f"{NAME}-{mode}", during, "ms", "without", (quiet + after) / 2)
                quiet = after


async def _phase(host: Daemon, mode: str | None) -> float:
    """The 99th percentile of one phase, in milliseconds."""
    headers = {"Authorization": f"Bearer {host.token}"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{host.port}", headers=headers) as session:
        await _latencies(session)
        began = time.monotonic()
        next_command = began
        async with asyncio.TaskGroup() as group:
            while (now := time.monotonic()) < began + PHASE_SECONDS:
                if mode is not None and now >= next_command:
                    next_command += COMMAND_SECONDS
                    group.create_task(_publish(session, "saboteur.command", {"mode": mode}))
                group.create_task(_publish(session, "bystander.event", {"sent": time.time()}))
                await asyncio.sleep(1 / EVENTS_PER_SECOND)
        await asyncio.sleep(0.5)
        found = await _latencies(session)
    expected = PHASE_SECONDS * EVENTS_PER_SECOND * len(BYSTANDERS)
    assert len(found) > expected * 0.7, f"{len(found)} of about {expected:g} events came"
    return statistics.quantiles(found, n=100)[98] * 1000


async def _publish(session: aiohttp.ClientSession, type_: str, data: dict[str, object]) -> None:
    event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/benchmarks", "type": type_, "data": data}
    kind = {"Content-Type": "application/cloudevents+json"}
    async with session.post("/api/v1/events", data=json.dumps(event), headers=kind) as answer:
        assert answer.status == 202, await answer.text()


async def _latencies(session: aiohttp.ClientSession) -> list[float]:
    found: list[float] = []
    for id_ in BYSTANDERS:
        async with session.post(f"/api/v1/plugins/{id_}/call/latencies", json={}) as answer:
            found += (await answer.json())["data"]
    return found
