"""The 99th percentile of the time from a request sent to the hook entered in a worker, at half the maximum rate.

The peer is the same percentile of the time to the answer of an aiohttp handler that only reads the body and answers
202, at the same rate. Both are loaded by the same generator over 64 connections, in turns; the clock is the machine's
monotonic one, which all processes share.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.daemon import ROOT, Daemon, daemon
from benchmarks.ingest import bare_handler, load
from benchmarks.measure import Figure

NAME: Final = "end-to-end"
CONNECTIONS: Final = 64
SECONDS: Final = 4.0
ROUNDS: Final = 5
STEADY: Final = 1000.0
"""Events a second of the steady figure."""

MODULE: Final = '''"""Measures how long events took to come."""
import statistics
import time

from plugin_sdk import Plugin, on_event, service


class Measurer(Plugin):
    def __init__(self):
        super().__init__()
        self.seconds = []

    @on_event("benchmark.*")
    async def take(self, event):
        now = time.monotonic()
        if "sentAt" in event.data:
            self.seconds.append(now - event.data["sentAt"])

    @service
    async def measured(self):
        """How many events came since the last time, and the 99th percentile of what they took."""
        found, self.seconds = self.seconds, []
        return {"events": len(found), "p99": statistics.quantiles(found, n=100)[98] if len(found) > 1 else 0.0}
'''
MANIFEST: Final = '[plugin]\nid = "measurer"\ntitle = "Measurer"\n\n[permissions]\nsubscribe = ["benchmark.*"]\n'


def run() -> Iterable[Figure]:
    """Measure at half of the maximum, and at a steady rate that any host should bear."""
    with tempfile.TemporaryDirectory(prefix="busbar-e2e-") as name, bare_handler() as bare, daemon(Path(name)) as host:
        host.trust("measurer")
        host.install_module("measurer", "Measurer", MODULE, MANIFEST)
        rate = load(host.port, host.token) / 2
        host.drained("measurer")
        measured(host)
        return [_at(NAME, rate, host, bare), _at(f"{NAME}-steady", STEADY, host, bare)]


def _at(name: str, rate: float, host: Daemon, bare: int) -> Figure:
    """The medians of rounds that alternate between the sides."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        theirs.append(paced(bare, "none", rate)["p99"])
        paced(host.port, host.token, rate)
        host.drained("measurer")
        ours.append(measured(host)["p99"])
    return Figure(name, statistics.median(ours) * 1000, "ms", "bare aiohttp handler", statistics.median(theirs) * 1000)


def measured(host: Daemon) -> Any:
    """What the plugin has measured since the last time."""
    return host.ask("/api/v1/plugins/measurer/call/measured", b"{}")


def paced(port: int, token: str, rate: float, seconds: float = SECONDS) -> dict[str, float]:
    """Load a server at a rate."""
    arguments = [str(port), str(CONNECTIONS), str(rate), str(seconds), token]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.paced_load", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    assert not found["refused"], found
    return found
