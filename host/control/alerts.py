"""Alerts: what is wrong with the host and its plugins now, worst first. One is gone when its cause is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from host.control.hosted_plugin import HostedPlugin
from host.control.reconciler import Reconciler
from host.control.records import PluginRecord, UpgradeOutcome
from host.control.registry import Registry
from host.control.states import PluginState, PluginStatus
from host.observe.background_parts import BackgroundParts, PartTrouble
from host.routing.errors import give_up
from host.routing.log_budget import LogBudget
from host.routing.plugin_shares import PluginShares
from host.storage.history import History
from host.storage.state_folder import DATABASE
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
        self,
        registry: Registry,
        reconciler: Reconciler,
        trust: TrustStore,
        budget: LogBudget,
        shares: PluginShares,
        parts: BackgroundParts,
        history: History,
    ) -> None:
        self._registry = registry
        self._reconciler = reconciler
        self._trust = trust
        self._budget = budget
        self._shares = shares
        self._parts = parts
        self._history = history

    def look(self) -> list[Alert]:
        """Every alert there is now: the critical ones first, then by their ids."""
        found = [*self._host()]
        for record in self._registry.all():
            found += _plugin(record, self._reconciler.status(record.id))
            hosted = self._reconciler.hosted(record.id)
            if hosted is not None:
                found += _sandbox(hosted)
        return sorted(found, key=lambda alert: (alert.severity is not AlertSeverity.CRITICAL, alert.id))

    def _host(self) -> list[Alert]:
        found = []
        for name, cause in (("trust-store", self._trust.tampered), ("registry", self._registry.tampered)):
            if cause:
                code = f"{name.replace('-', '_')}_tampered"
                mend = "look at it, mend it, then 'busbar publisher confirm'"
                found.append(Alert(f"host/{name}", AlertSeverity.CRITICAL, name, code, cause, mend, None))
        found += _of_state(self._history)
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
        return found + [_part(trouble) for trouble in self._parts.trouble()]


def _part(trouble: PartTrouble) -> Alert:
    times = "" if trouble.deaths == 1 else f", {trouble.deaths} times in a row"
    return Alert(
        f"host/part/{trouble.name.replace(' ', '-')}",
        AlertSeverity.CRITICAL if trouble.unfit else AlertSeverity.WARNING,
        trouble.name,
        "part_ended",
        f"the host's {trouble.name} died{times}: {trouble.reason}",
        trouble.next_action,
        trouble.since,
    )


def _sandbox(hosted: HostedPlugin) -> list[Alert]:
    seen, plugin = hosted.supervisor.snapshot(), hosted.record.id
    if seen is None or not seen.weakened:
        return []
    return [
        Alert(
            f"plugin/{plugin}/sandbox",
            AlertSeverity.WARNING,
            plugin,
            "sandbox_weakened",
            f"the sandbox of {plugin} is not whole: {'; '.join(seen.weakened)}",
            'mend what it says; sandbox.mode = "require" runs no plugin until then',
            hosted.supervisor.status.since,
        )
    ]


def _of_state(history: History) -> list[Alert]:
    """What was lost between two starts, shown until the next one; and what somebody takes away meanwhile."""
    found = []
    for number, loss in enumerate(history.losses, 1):
        severity = AlertSeverity.CRITICAL if loss.certain else AlertSeverity.WARNING
        code = "history_lost" if loss.certain else "history_in_doubt"
        mend = "have what sent events then send them again, or restore a newer backup; see the audit trail"
        found.append(Alert(f"state/history/{number}", severity, "database", code, loss.message, mend, None))
    for name in history.missing:
        message = f"{name} was taken out of the state folder while the host runs"
        mend = (
            "stop the other program that did; stopping this host cleanly writes all that it has into busbar.db"
            if name != DATABASE
            else "the host still has it open: stop publishing, and copy it from the daemon's /proc/PID/fd"
        )
        found.append(
            Alert(
                f"state/missing/{name}", AlertSeverity.CRITICAL, "state", "state_file_taken_away", message, mend, None
            )
        )
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
