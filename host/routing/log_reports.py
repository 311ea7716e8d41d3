"""What the event log says of itself to those who watch the host: alerts, a check and metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from host.observe.alerts import Alert, AlertSeverity
from host.observe.health import Check
from host.routing.bus import Bus
from host.routing.errors import give_up
from host.routing.event_log import EventLog
from host.routing.log_budget import LogBudget
from host.routing.plugin_shares import PluginShares


class LogReports:
    """Looks at the log, its budget and the plugins' shares of it."""

    def __init__(self, log: EventLog, bus: Bus, budget: LogBudget, shares: PluginShares) -> None:
        self._log = log
        self._bus = bus
        self._budget = budget
        self._shares = shares

    def alerts(self) -> Iterator[Alert]:
        """That the log is full, or a plugin's share of it."""
        if self._budget.full:
            message = f"the event log is full, and publishing waits; the oldest events are held by {self._held()}"
            mend = f"have these plugins catch up,{give_up(self._budget.held_by)} raise events.keep_bytes"
            yield Alert("host/event-log", AlertSeverity.CRITICAL, "event-log", "log_full", message, mend, None)
        for plugin, held_by in self._shares.full.items():
            held = ", ".join(held_by) or "nobody"
            message = (
                f"the events of {plugin} fill its share of the event log, and it can publish no more: held by {held}"
            )
            mend = f"have these plugins catch up,{give_up(held_by)} raise events.plugin_share"
            alert = f"plugin/{plugin}/log-share"
            yield Alert(alert, AlertSeverity.WARNING, plugin, "log_share_full", message, mend, None)

    def check(self) -> Check:
        """Whether the log takes events."""
        if not self._budget.full:
            return Check("event-log", "pass")
        return Check(
            "event-log", "warn", f"it is full, and publishing waits; the oldest events are held by {self._held()}"
        )

    def metrics(self) -> Iterator[Metric]:
        """How much came in, and how much was refused."""
        events = CounterMetricFamily("busbar_events_received", "Events published.", labels=("outcome",))
        events.add_metric(("accepted",), self._bus.published)
        events.add_metric(("duplicate",), self._bus.duplicates)
        events.add_metric(("log-full",), self._budget.refused)
        events.add_metric(("log-share-full",), sum(self._shares.refused.values()))
        yield events
        yield GaugeMetricFamily("busbar_log_head", "Highest sequence of the event log.", value=self._log.head())
        yield GaugeMetricFamily("busbar_log_full", "Whether the log has no room for events.", value=self._budget.full)

    def _held(self) -> str:
        return ", ".join(self._budget.held_by) or "nobody"
