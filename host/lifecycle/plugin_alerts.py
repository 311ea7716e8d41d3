"""What is wrong with plugins now, and what the host's health says of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import structlog

from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.reconciler import Reconciler
from host.lifecycle.trouble import sentence
from host.observe.alerts import Alert, AlertSeverity
from host.observe.health import Check
from host.registry.records import PluginRecord, UpgradeOutcome
from host.registry.registry import Registry
from host.registry.states import PluginState, PluginStatus

_OF_STATE: Final = {
    PluginState.FAILED: AlertSeverity.CRITICAL,
    PluginState.DEGRADED: AlertSeverity.WARNING,
    PluginState.BACKING_OFF: AlertSeverity.WARNING,
    PluginState.NEEDS_APPROVAL: AlertSeverity.WARNING,
}
_OF_UPGRADE: Final = frozenset({UpgradeOutcome.FAILED, UpgradeOutcome.ROLLED_BACK, UpgradeOutcome.WAITING})

_log = structlog.get_logger(__name__)


class PluginAlerts:
    """Looks at every plugin."""

    def __init__(self, registry: Registry, reconciler: Reconciler) -> None:
        self._registry = registry
        self._reconciler = reconciler

    def alerts(self) -> Iterator[Alert]:
        """Plugins that do not run as they should, upgrades that did not succeed, sandboxes that are not whole."""
        for record in self._registry.all():
            yield from _plugin(record, self._reconciler.status(record.id))
            hosted = self._reconciler.hosted(record.id)
            if hosted is not None:
                yield from self._looked_at(record.id, hosted)
        for plugin, status in self._reconciler.left_over():
            yield Alert(
                f"plugin/{plugin}/left-over",
                AlertSeverity.WARNING,
                plugin,
                "plugin_left_over",
                f"{plugin} is uninstalled, but not everything of it is gone: {status.evidence or status.cause}",
                status.next_action,
                status.since,
            )

    def _looked_at(self, plugin: str, hosted: HostedPlugin) -> list[Alert]:
        """What its runtime shows; that one plugin cannot be looked at hides none of the others."""
        try:
            return _sandbox(hosted)
        except Exception as error:  # noqa: BLE001 - logged with its traceback, and shown
            _log.exception("plugin_not_looked_at", plugin=plugin)
            message = f"the worker of {plugin} cannot be looked at: {sentence(error)}"
            return [
                Alert(
                    f"plugin/{plugin}/look",
                    AlertSeverity.WARNING,
                    plugin,
                    "not_looked_at",
                    message,
                    "look at the host's log",
                    None,
                )
            ]

    def check(self) -> Check:
        """Whether every plugin is as it is wanted."""
        unwell = [
            f"{record.id} is {state.value}"
            for record in self._registry.all()
            if (state := self._reconciler.status(record.id).state) in _OF_STATE
        ]
        return Check("plugins", "warn" if unwell else "pass", "; ".join(unwell))

    def check_sandboxes(self) -> Check:
        """Whether every worker's sandbox is whole."""
        held_less: dict[str, list[str]] = {}
        for hosted in self._reconciler.all_hosted():
            for part in _weakened(hosted):
                held_less.setdefault(part, []).append(hosted.record.id)
        output = "; ".join(f"{part}: {', '.join(sorted(plugins))}" for part, plugins in held_less.items())
        return Check("sandbox", "warn" if output else "pass", output)


def _weakened(hosted: HostedPlugin) -> tuple[str, ...]:
    try:
        seen = hosted.supervisor.snapshot()
    except Exception as error:  # noqa: BLE001 - shown, and the alert of the plugin has it in the log
        return (f"cannot be looked at: {sentence(error)}",)
    return seen.weakened if seen is not None else ()


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
