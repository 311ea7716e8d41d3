"""Prometheus metrics: read from the parts' own counters when someone asks, so that counting costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class RequestCounts:
    """HTTP requests by method and status."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._seconds = 0.0

    def count(self, method: str, status: int, seconds: float) -> None:
        """Count one request that took `seconds`."""
        key = (method if method in _METHODS else "other", status)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._seconds += seconds

    def take(self) -> tuple[list[tuple[str, int, int]], float]:
        """What was counted, as method, status and number, and the seconds; from here on it is counted anew."""
        counts, seconds = self._counts, self._seconds
        self._counts, self._seconds = {}, 0.0
        return [(method, status, count) for (method, status), count in counts.items()], seconds

    def add(self, counted: Iterable[tuple[str, int, int]], seconds: float) -> None:
        """Add what was counted elsewhere, as `take` has it."""
        for method, status, count in counted:
            self._counts[method, status] = self._counts.get((method, status), 0) + count
        self._seconds += seconds

    def metrics(self) -> Iterator[Metric]:
        """As metrics."""
        requests = CounterMetricFamily("busbar_http_requests", "HTTP requests answered.", labels=("method", "status"))
        for (method, status), count in sorted(self._counts.items()):
            requests.add_metric((method, str(status)), count)
        yield requests
        yield CounterMetricFamily("busbar_http_request_seconds", "Time spent on HTTP requests.", value=self._seconds)


class Metrics(Collector):
    """The host's metrics: a list of providers, asked at each scrape."""

    def __init__(self) -> None:
        self._providers: list[Callable[[], Iterable[Metric]]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def register(self, provider: Callable[[], Iterable[Metric]]) -> None:
        """Show what `provider` answers at each scrape."""
        self._providers.append(provider)

    def collect(self) -> Iterator[Metric]:
        """Called by the client library."""
        for provider in self._providers:
            yield from provider()

    def render(self) -> bytes:
        """Everything, in the text format."""
        return generate_latest(self._registry)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
