"""Acknowledged events per second with two processes for HTTP, beside the same daemon with none.

What `ingest` measures, of two daemons that differ in `server.processes` alone, in turns. On few processors the
processes, the host, its worker and the load have to share them, and there is nothing to gain.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.daemon import Daemon, daemon, until
from benchmarks.ingest import BATCH, BATCH_CONNECTIONS, MANIFEST, MODULE, load
from benchmarks.measure import Figure

NAME: Final = "ingest-processes"
PROCESSES: Final = 2
ROUNDS: Final = 5


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    with ExitStack() as stack:
        hosts = [stack.enter_context(_host(count)) for count in (PROCESSES, 0)]
        rates: list[list[float]] = [[], []]
        batches: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for host, single, batched in zip(hosts, rates, batches, strict=True):
                single.append(load(host.port, host.token))
                host.drained("taker")
                batched.append(load(host.port, host.token, connections=BATCH_CONNECTIONS, batch=BATCH) * BATCH)
                host.drained("taker")
    beside, none = (statistics.median(one) for one in rates)
    beside_batches, none_batches = (statistics.median(one) for one in batches)
    return [
        Figure(NAME, beside, "events/s", "the same with none", none),
        Figure(f"{NAME}-batch", beside_batches, "events/s", "the same with none", none_batches),
    ]


@contextmanager
def _host(processes: int) -> Iterator[Daemon]:
    """A daemon with so many processes for HTTP, all of which serve, and a worker for every event."""
    with (
        tempfile.TemporaryDirectory(prefix="busbar-ingest-") as name,
        daemon(Path(name), server=f"processes = {processes}") as host,
    ):
        host.trust("taker")
        host.install_module("taker", "Taker", MODULE, MANIFEST)
        until(lambda: not processes or host.metric("busbar_http_processes") == processes)
        yield host
