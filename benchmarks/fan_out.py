"""Deliveries per second: every event to 20 workers, beside every event to one worker.

Events come in batches, so that their publishing bounds neither side. The clock runs from the first batch sent to the
last delivery settled.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.daemon import Daemon, daemon, until
from benchmarks.measure import Figure

NAME: Final = "fan-out"
WORKERS: Final = 20
DELIVERIES: Final = 40_000
BATCH: Final = 100
ROUNDS: Final = 3

MODULE: Final = '''"""Takes every event of its kind."""
from plugin_sdk import Plugin, on_event


class Taker(Plugin):
    @on_event("{kind}.*")
    async def take(self, event):
        pass
'''


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    crowd = [f"crowd-{number}" for number in range(WORKERS)]
    with tempfile.TemporaryDirectory(prefix="busbar-fan-out-") as name, daemon(Path(name)) as host:
        host.trust("single", *crowd)
        install_taker(host, "single", "single")
        for plugin in crowd:
            install_taker(host, plugin, "crowd")
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            theirs.append(_deliver(host, "single", ["single"]))
            ours.append(_deliver(host, "crowd", crowd))
    return [Figure(NAME, statistics.median(ours), "deliveries/s", "one worker", statistics.median(theirs))]


def install_taker(host: Daemon, plugin: str, kind: str) -> None:
    """Install a plugin that takes every event of a kind and does nothing with it."""
    manifest = f'[plugin]\nid = "{plugin}"\ntitle = "Taker"\n\n[permissions]\nsubscribe = ["{kind}.*"]\n'
    host.install_module(plugin, "Taker", MODULE.format(kind=kind), manifest)


def publish(host: Daemon, kind: str, count: int) -> None:
    """Publish so many events of a kind, in batches."""
    run_id = uuid.uuid4().hex
    for first in range(0, count, BATCH):
        batch = [
            {
                "specversion": "1.0",
                "id": f"{run_id}-{number:09d}",
                "source": "/benchmarks",
                "type": f"{kind}.event",
                "data": {"number": number, "note": "forty characters of plain and dull text"},
            }
            for number in range(first, min(first + BATCH, count))
        ]
        host.ask(
            "/api/v1/events", json.dumps(batch, separators=(",", ":")).encode(), "application/cloudevents-batch+json"
        )


def lags(host: Daemon, plugins: Sequence[str]) -> Any:
    """How far each plugin is behind."""
    return [host.ask(f"/api/v1/plugins/{plugin}/health")["lag"] for plugin in plugins]


def _deliver(host: Daemon, kind: str, plugins: Sequence[str]) -> float:
    """Deliveries per second of events that each of these plugins gets."""
    started = time.perf_counter()
    publish(host, kind, DELIVERIES // len(plugins))
    until(lambda: not any(lags(host, plugins)), seconds=300)
    return DELIVERIES / (time.perf_counter() - started)
