"""Alerts: what is wrong with the host and its plugins now, worst first. One is gone when its cause is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from host.control.reconciler import Reconciler
from host.control.records import PluginRecord, UpgradeOutcome
from host.control.registry import Registry
from host.control.states import PluginState, PluginStatus
from host.routing.errors import give_up
from host.routing.log_budget import LogBudget
from host.routing.plugin_shares import PluginShares
from host.supply.trust_store import TrustStore


class AlertSeverity(Enum):
    """`critical`: something does not work, or cannot be believed. `warning`: it will not be so for ever."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that is wrong. `since` is in seconds since the epoch, None where nobody knows."""

    id: str
    severity: AlertSeverity
    subject: str
    code: str
    message: str
    next_action: str
    since: float | None


_OF_STATE = {
    PluginState.FAILED: AlertSeverity.CRITICAL,
    PluginState.DEGRADED: AlertSeverity.WARNING,
    PluginState.BACKING_OFF: AlertSeverity.WARNING,
    PluginState.NEEDS_APPROVAL: AlertSeverity.WARNING,
}
_OF_UPGRADE = frozenset({UpgradeOutcome.FAILED, UpgradeOutcome.ROLLED_BACK, UpgradeOutcome.WAITING})


class Alerts:
    """Looks at everything that may be wrong."""

    def __init__(
        self, registry: Registry, reconciler: Reconciler, trust: TrustStore, budget: LogBudget, shares: PluginShares
    ) -> None:
        self._registry = registry
        self._reconciler = reconciler
        self._trust = trust
        self._budget = budget
        self._shares = shares

    def look(self) -> list[Alert]:
        """Every alert there is now: the critical ones first, then by their ids."""
        found = [*self._host()]
        for record in self._registry.all():
            found += _plugin(record, self._reconciler.status(record.id))
        return sorted(found, key=lambda alert: (alert.severity is not AlertSeverity.CRITICAL, alert.id))

    def _host(self) -> list[Alert]:
        found = []
        for name, cause in (("trust-store", self._trust.tampered), ("registry", self._registry.tampered)):
            if cause:
                code = f"{name.replace('-', '_')}_tampered"
                mend = "look at it, mend it, then 'busbar publisher confirm'"
                found.append(Alert(f"host/{name}", AlertSeverity.CRITICAL, name, code, cause, mend, None))
        if self._budget.full:
            held = ", ".join(self._budget.held_by) or "nobody"
            message = f"the event log is full, and publishing waits; the oldest events are held by {held}"
            mend = f"have these plugins catch up,{give_up(self._budget.held_by)} raise events.keep_bytes"
            found.append(Alert("host/event-log", AlertSeverity.CRITICAL, "event-log", "log_full", message, mend, None))
        for plugin, held_by in self._shares.full.items():
            held = ", ".join(held_by) or "nobody"
            message = (
                f"the events of {plugin} fill its share of the event log, and it can publish no more: held by {held}"
            )
            mend = f"have these plugins catch up,{give_up(held_by)} raise events.plugin_share"
            alert = f"plugin/{plugin}/log-share"
            found.append(Alert(alert, AlertSeverity.WARNING, plugin, "log_share_full", message, mend, None))
        return found


def _plugin(record: PluginRecord, status: PluginStatus) -> list[Alert]:
    found = []
    severity = _OF_STATE.get(status.state)
    if severity is not None:
        message = f"{record.id} is {status.state.value}: {status.cause}"
        if status.evidence:
            message += f": {status.evidence}"
        code = status.cause if status.cause.replace("_", "").isalnum() and "_" in status.cause else status.state.value
        found.append(
            Alert(
                f"plugin/{record.id}/{status.state.value}",
                severity,
                record.id,
                code,
                message,
                status.next_action,
                status.since,
            )
        )
    last = record.last_upgrade
    if last is not None and last.outcome in _OF_UPGRADE:
        found.append(
            Alert(
                f"plugin/{record.id}/upgrade",
                AlertSeverity.WARNING,
                record.id,
                f"upgrade_{last.outcome.value.replace('-', '_')}",
                f"{record.id} stays at {record.version}, and did not go to {last.to_version}: {last.reason}",
                "install a release that does better",
                last.at,
            )
        )
    return found
