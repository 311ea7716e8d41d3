"""The states of a plugin that its keeper tells: each with its cause, its evidence, and what comes next."""

from __future__ import annotations

from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.trouble import Trouble
from host.registry.records import PluginRecord
from host.registry.states import PluginState, PluginStatus
from host.runtime.supervisor import SupervisedState
from host.storage.errors import StorageBusyError, StorageFailedError
from plugin_sdk.resilience import BreakerState

_STANDS = frozenset({PluginState.RUNNING, PluginState.DEGRADED})


def waiting(now: float) -> PluginStatus:
    """Nobody has looked at it yet."""
    return PluginStatus(PluginState.STARTING, now, "its turn comes", next_action="the host looks at it")


def starting(now: float) -> PluginStatus:
    """It is being started."""
    return PluginStatus(PluginState.STARTING, now, "enabled")


def stopping(cause: str, now: float) -> PluginStatus:
    """It is being stopped."""
    return PluginStatus(PluginState.STOPPING, now, cause)


def refused(cause: str, evidence: str, now: float) -> PluginStatus:
    """A rule is against it, and trying again does not help."""
    return PluginStatus(PluginState.FAILED, now, cause, evidence, "mend it, then restart or upgrade the plugin")


def resting(record: PluginRecord | None, now: float) -> PluginStatus:
    """It is not to run."""
    if record is not None and record.damage:
        return PluginStatus(
            PluginState.FAILED,
            now,
            "record_damaged",
            record.damage,
            f"restore {record.id} from a backup of the state folder, or uninstall it and install it again",
        )
    if record is not None and record.enabled and record.missing_grants:
        return PluginStatus(
            PluginState.NEEDS_APPROVAL,
            now,
            "the release asks for permissions that are not granted",
            ", ".join(record.missing_grants),
            f"an administrator grants them with PUT /api/v1/plugins/{record.id}/grants",
        )
    if record is not None and record.enabled:
        return waiting(now)
    return PluginStatus(
        PluginState.DISABLED, now, "not enabled", next_action="POST …/enable starts it" if record else ""
    )


def untold(now: float, reason: str) -> PluginStatus:
    """Not even its state can be told."""
    return PluginStatus(PluginState.FAILED, now, "its state cannot be told", reason, "look at the host's log")


def troubled(shown: PluginStatus, trouble: Trouble, *, runs: bool) -> PluginStatus:
    """A state with what went wrong in bringing the plugin to what is wanted.

    A plugin that runs (`runs`: is hosted) is degraded; another one failed, or waits for the machine. What has a reason
    of its own not to run, or is just coming, goes on saying so.
    """
    if shown.state is PluginState.FAILED or (runs and shown.state not in _STANDS):
        return shown
    state = PluginState.BACKING_OFF if trouble.of_the_machine else PluginState.FAILED
    return PluginStatus(
        PluginState.DEGRADED if runs else state,
        trouble.since,
        trouble.cause,
        trouble.reason,
        "try again",
        trouble.again_at,
    )


def of_the_machine(error: Exception) -> bool:
    """Whether the machine refused, which says nothing of the plugin."""
    return isinstance(error, StorageFailedError | StorageBusyError)


def unwell(hosted: HostedPlugin) -> str:
    """Why a release on probation is to be taken back, or nothing."""
    # What it is delivered decides alone: whoever may call it, or reach its routes, must not bring an old release back.
    breaker = hosted.guards.deliveries.breaker.snapshot()
    if breaker.state is BreakerState.OPEN:
        return f"its breaker opened: {breaker.reason}"
    supervised = hosted.supervisor.status
    if supervised.state is SupervisedState.FAILED:
        return f"it failed: {supervised.cause}: {supervised.evidence}"
    return ""
