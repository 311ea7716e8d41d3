"""Events per second that a plugin drains from a backlog of 100,000 once it has recovered, beside `ingest`'s rate.

The second figure is what another plugin notices: the 99th percentile of the time its events take while the backlog is
drained, beside the same without a backlog, at a twentieth of the maximum rate.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.daemon import Daemon, daemon, until
from benchmarks.end_to_end import MANIFEST, MODULE, measured, paced
from benchmarks.fan_out import install_taker, publish
from benchmarks.ingest import load
from benchmarks.measure import Figure

NAME: Final = "backlog"
BACKLOG: Final = 100_000
SHARE: Final = 20
LOAD_SECONDS: Final = 10.0
"""How long the other plugin's events come; the backlog takes about as long."""


def run() -> Iterable[Figure]:
    """Measure once: the backlog is long enough to even out what disturbs a short run."""
    with tempfile.TemporaryDirectory(prefix="busbar-backlog-") as name, daemon(Path(name)) as host:
        host.trust("sick", "measurer")
        install_taker(host, "sick", "backlog")
        host.install_module("measurer", "Measurer", MODULE, MANIFEST)
        rate = load(host.port, host.token)
        host.drained("measurer")
        _breaker(host, "open")
        publish(host, "backlog", BACKLOG)
        host.drained("measurer")
        measured(host)
        paced(host.port, host.token, rate / SHARE)
        host.drained("measurer")
        calm = measured(host)["p99"]
        drained, noisy = _drain(host, rate / SHARE)
    yield Figure(NAME, drained, "events/s", "ingest", rate)
    yield Figure(f"{NAME}-neighbour", noisy * 1000, "ms", "without a backlog", calm * 1000)


def _drain(host: Daemon, rate: float) -> tuple[float, float]:
    """Events per second that the plugin drains, and what another's events take meanwhile."""
    load_ = threading.Thread(target=paced, args=(host.port, host.token, rate, LOAD_SECONDS))
    load_.start()
    time.sleep(1)
    measured(host)
    _breaker(host, "closed")
    started = time.perf_counter()
    until(lambda: host.ask("/api/v1/plugins/sick/health")["lag"] < SHARE * 10, seconds=300)
    elapsed = time.perf_counter() - started
    load_.join()
    host.drained("measurer")
    return BACKLOG / elapsed, measured(host)["p99"]


def _breaker(host: Daemon, state: str) -> None:
    host.ask("/api/v1/plugins/sick/breaker", b'{"state": "%s"}' % state.encode())
