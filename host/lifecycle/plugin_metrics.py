"""The plugins' counters as Prometheus metrics: states, breakers, hooks, deliveries, workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client.core import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.reconciler import Reconciler
from host.registry.registry import Registry
from host.registry.states import PluginState
from host.routing.event_log import EventLog
from host.routing.measures import BUCKETS
from host.runtime.egress import EgressBroker
from plugin_sdk.resilience import BreakerState

_log = structlog.get_logger(__name__)


class PluginMetrics:
    """Reads the parts at each scrape; nothing is kept here, so a plugin that is gone leaves no series."""

    def __init__(
        self,
        registry: Registry,
        reconciler: Reconciler,
        log: EventLog,
        egress: EgressBroker,
    ) -> None:
        self._registry = registry
        self._reconciler = reconciler
        self._log = log
        self._egress = egress

    def metrics(self) -> Iterator[Metric]:
        """Everything."""
        yield from self._plugins()
        yield from self._hosted()
        yield from self._hooks()
        yield from self._doors()

    def _plugins(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("busbar_plugin_info", "Installed plugins.", labels=("plugin", "version", "publisher"))
        states = GaugeMetricFamily("busbar_plugin_state", "1 for the state a plugin is in.", labels=("plugin", "state"))
        held = GaugeMetricFamily(
            "busbar_plugin_log_bytes", "What the events of a plugin take of the log.", labels=("plugin",)
        )
        for record in self._registry.all():
            held.add_metric((record.id,), self._log.plugin_bytes(record.id))
            info.add_metric((record.id, record.version, record.publisher), 1)
            now = self._reconciler.status(record.id).state
            for state in PluginState:
                states.add_metric((record.id, state.value), int(state is now))
        yield from (info, states, held)

    def _hosted(self) -> Iterator[Metric]:
        breakers = GaugeMetricFamily(
            "busbar_breaker_state", "1 for the state a breaker is in.", labels=("plugin", "share", "state")
        )
        rejected = CounterMetricFamily(
            "busbar_breaker_rejections", "Calls a breaker did not let through.", labels=("plugin", "share")
        )
        in_use = GaugeMetricFamily("busbar_bulkhead_in_use", "Calls in flight.", labels=("plugin", "share"))
        lag = GaugeMetricFamily(
            "busbar_delivery_lag_events",
            "Events a subscription has not settled.",
            labels=("plugin", "subscription"),
        )
        restarts = CounterMetricFamily("busbar_worker_restarts", "Restarts of a plugin's worker.", labels=("plugin",))
        resident = GaugeMetricFamily("busbar_worker_resident_bytes", "Resident memory of a worker.", labels=("plugin",))
        for hosted in self._reconciler.all_hosted():
            with _apart(hosted):
                plugin = hosted.record.id
                for share, guard in hosted.guards:
                    breaker = guard.breaker.snapshot()
                    for state in BreakerState:
                        breakers.add_metric((plugin, share.value, state.value), int(state is breaker.state))
                    rejected.add_metric((plugin, share.value), breaker.rejected)
                    in_use.add_metric((plugin, share.value), guard.in_flight)
                for consumer in hosted.deliveries.consumers:
                    lag.add_metric((plugin, consumer.subscription.name), consumer.lag)
                restarts.add_metric((plugin,), hosted.supervisor.restarts)
                seen = hosted.supervisor.snapshot()
                if seen is not None and seen.rss_bytes is not None:
                    resident.add_metric((plugin,), seen.rss_bytes)
        yield from (breakers, rejected, in_use, lag, restarts, resident)

    def _doors(self) -> Iterator[Metric]:
        connections = CounterMetricFamily(
            "busbar_egress_connections", "Connections of plugins to the network.", labels=("plugin", "outcome")
        )
        passed = CounterMetricFamily(
            "busbar_egress_bytes", "Bytes between plugins and the network.", labels=("plugin", "direction")
        )
        for hosted in self._reconciler.all_hosted():
            plugin = hosted.record.id
            counts = self._egress.counts(plugin)
            if counts is None:
                continue
            connections.add_metric((plugin, "connected"), counts.connections)
            for code, count in counts.refused.items():
                connections.add_metric((plugin, code), count)
            passed.add_metric((plugin, "sent"), counts.sent)
            passed.add_metric((plugin, "received"), counts.received)
        yield connections
        yield passed

    def _hooks(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("busbar_hook_calls", "Hook calls by outcome.", labels=("plugin", "hook", "outcome"))
        durations = HistogramMetricFamily(
            "busbar_hook_duration_seconds", "Duration of hook calls.", labels=("plugin", "hook")
        )
        for hosted in self._reconciler.all_hosted():
            every = (found for _, guard in hosted.guards for found in guard.measures.items())
            for hook, measures in every:
                labels = (hosted.record.id, hook)
                for outcome in ("succeeded", "failed", "timed_out", "decided", "callers", "cancelled"):
                    calls.add_metric((*labels, outcome), getattr(measures, outcome))
                total = 0
                buckets: list[tuple[str, float]] = []
                for bound, count in zip((*map(str, BUCKETS), "+Inf"), measures.buckets, strict=True):
                    total += count
                    buckets.append((bound, total))
                durations.add_metric(labels, buckets=buckets, sum_value=measures.seconds)
        yield calls
        yield durations


@contextmanager
def _apart(hosted: HostedPlugin) -> Iterator[None]:
    """What one plugin's counters cannot be read for hides nobody else's."""
    try:
        yield
    except Exception:  # noqa: BLE001 - logged with its traceback
        _log.exception("plugin_not_measured", plugin=hosted.record.id)
