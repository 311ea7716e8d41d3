"""How many files and sockets this process may have open, and which share of them the connections of clients get.

Workers, the database, releases that are verified and what plugins reach in the network need descriptors, too. A host
whose clients have them all cannot start a worker, and finds files that it cannot open.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.metrics_core import GaugeMetricFamily

from host.observe.health import Check

ENOUGH: Final = 65_536
"""The soft limit is raised to so many at most: more are of no use, and some programs go through all there may be."""
RESERVE: Final = 512
"""Descriptors that connections leave to the host: it has some 50 of its own, and a worker costs it 5."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What there is, and who gets it.

    Attributes:
        limit: Descriptors that the process may have.
        connections: Connections of clients that there may be at once.
        wanted: Connections that the settings ask for.
    """

    limit: int
    connections: int
    wanted: int

    @classmethod
    def share_out(cls, limit: int, wanted: int) -> Descriptors:
        """Give connections what they want and the `RESERVE` leaves; a quarter where that would leave too few."""
        return cls(limit, min(wanted, max(limit - RESERVE, limit // 4)), wanted)

    @property
    def ceiling(self) -> int:
        """The first number that no connection may have.

        The kernel hands out the lowest number that is free, so one at the ceiling says that so many are open, whoever
        has them: half of what is not the connections' is then left.
        """
        return self.limit - min(RESERVE, self.limit - self.connections) // 2

    @property
    def scarce(self) -> str:
        """That the limit is too small for what the settings ask for, and how to mend it; empty where it is not."""
        if self.connections >= self.wanted:
            return ""
        return (
            f"this process may open {self.limit} files and sockets, which leaves {self.connections} connections "
            f"instead of server.connections = {self.wanted}: raise its hard limit (LimitNOFILE, ulimit -Hn) to "
            f"{self.wanted + RESERVE}, or lower server.connections"
        )

    def open_now(self) -> int:
        """How many are open; all of them, where not one is left to look with."""
        try:
            return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # the listing has one open itself
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            return self.limit

    def check(self) -> Check:
        """Whether there are enough of them, and some left."""
        opened = self.open_now()
        if opened >= self.ceiling:
            return Check("descriptors", "warn", f"{opened} of {self.limit} are open: new connections are refused")
        return Check("descriptors", "warn" if self.scarce else "pass", self.scarce)

    def metrics(self) -> Iterator[Metric]:
        """As metrics."""
        yield GaugeMetricFamily("busbar_descriptors_open", "Files and sockets that are open.", value=self.open_now())
        yield GaugeMetricFamily("busbar_descriptors_limit", "Files and sockets that may be open.", value=self.limit)


def raise_limit() -> int:
    """Raise this process's soft limit as far as it may be and is of use; what it is then.

    The hard limit stays. What is started from here on inherits both; workers get a smaller one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = ENOUGH
    wanted = max(soft, min(hard, ENOUGH))
    if wanted != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return wanted
