"""What became of connections, counted for the metrics, and said in the log: one line for an interval, however many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final

import structlog
from prometheus_client.core import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

LINE_EVERY: Final = 10.0
"""Seconds between two lines."""

_log = structlog.get_logger(__name__)


class Refusal(StrEnum):
    """Why a connection was not taken: too many of its address, or in all, or no descriptor for it."""

    ADDRESS = "address"
    TOTAL = "total"
    DESCRIPTORS = "descriptors"


class Cut(StrEnum):
    """Why a connection was ended: what it did not do in time, or that another needed its place."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    CLOSE = "close"
    ROOM = "room"


class ConnectionCounts:
    """Counts.

    Args:
        opened: How many connections there are now.
        now: The monotonic time, in seconds.
    """

    def __init__(self, opened: Callable[[], int], now: Callable[[], float]) -> None:
        self._opened = opened
        self._now = now
        self._accepted = 0
        self._refused: Counter[Refusal] = Counter()
        self._cut: Counter[Cut] = Counter()
        self._said: tuple[Counter[Refusal], Counter[Cut]] = (Counter(), Counter())
        self._said_at = float("-inf")
        self._address = ""

    def accepted(self) -> None:
        """Count a connection that was taken."""
        self._accepted += 1

    def refused(self, why: Refusal, address: str) -> None:
        """Count one that was not."""
        self._refused[why] += 1
        self._address = address

    def cut(self, why: Cut, address: str, count: int = 1) -> None:
        """Count one that was ended, or several."""
        self._cut[why] += count
        self._address = address

    def say(self) -> None:
        """Write a line, where there is something new to say and the last one is long enough ago."""
        refused, cut = self._refused - self._said[0], self._cut - self._said[1]
        if not (refused or cut) or self._now() - self._said_at < LINE_EVERY:
            return
        self._said = (self._refused.copy(), self._cut.copy())
        self._said_at = self._now()
        _log.warning(
            "connections_refused",
            refused={why.value: count for why, count in refused.items()},
            cut={why.value: count for why, count in cut.items()},
            open=self._opened(),
            last=self._address,
        )

    def metrics(self) -> Iterator[Metric]:
        """As metrics; every reason has its series from the start, so that a rate of it begins at zero."""
        yield GaugeMetricFamily("busbar_connections_open", "Connections of clients.", value=self._opened())
        yield CounterMetricFamily("busbar_connections_accepted", "Connections taken.", value=self._accepted)
        refused = CounterMetricFamily("busbar_connections_refused", "Connections not taken.", labels=("reason",))
        for why in Refusal:
            refused.add_metric((why.value,), self._refused[why])
        cut = CounterMetricFamily("busbar_connections_cut", "Connections ended by the host.", labels=("reason",))
        for reason in Cut:
            cut.add_metric((reason.value,), self._cut[reason])
        yield refused
        yield cut
