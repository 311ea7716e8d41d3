"""The state of a plugin that is hosted, made of what its parts say: the worst of them first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from host.lifecycle.deliveries import Broken
from host.registry.states import PluginState, PluginStatus
from host.routing.caller_guard import CallerGuard
from host.routing.shares import Guards, Share
from host.runtime.supervisor import SupervisedState, SupervisedStatus
from plugin_sdk.calls import Health
from plugin_sdk.resilience import BreakerState

_OF_SUPERVISED: Final = {
    SupervisedState.STARTING: PluginState.STARTING,
    SupervisedState.BACKING_OFF: PluginState.BACKING_OFF,
    SupervisedState.FAILED: PluginState.FAILED,
    SupervisedState.STOPPING: PluginState.STOPPING,
    SupervisedState.STOPPED: PluginState.STOPPING,
    SupervisedState.RUNNING: PluginState.RUNNING,
}


def hosted_status(
    supervised: SupervisedStatus,
    guards: Guards,
    broken: Mapping[str, Broken],
    unmet: Callable[[], tuple[str, ...]],
    health: Health,
) -> PluginStatus:
    """The state that follows from a runtime, its guards, its deliveries, what it requires, and what it says of itself.

    Args:
        supervised: Of the runtime.
        guards: Of its shares.
        broken: Subscriptions that are not delivered now.
        unmet: Answers what it requires and does not have; asked where it matters.
        health: What its own check answered last.
    """
    state = _OF_SUPERVISED[supervised.state]
    found = None
    if state is PluginState.RUNNING:
        found = (
            _refusing(guards)
            or _not_delivered(broken)
            or _lacking(supervised.since, unmet())
            or _unwell(supervised.since, health)
        )
    return found or PluginStatus(
        state,
        since=supervised.since,
        cause=supervised.cause,
        evidence=supervised.evidence,
        next_action=supervised.next_action,
        next_action_at=supervised.next_action_at,
    )


def _refusing(guards: Guards) -> PluginStatus | None:
    """That a share lets nothing through, and why: the deliveries' before the others'."""
    for share, guard in guards:
        breaker = guard.breaker.snapshot()
        if breaker.state not in {BreakerState.CLOSED, BreakerState.DISABLED}:
            whose = "breaker" if share is Share.DELIVERIES else f"breaker of {share.value}"
            return PluginStatus(
                PluginState.DEGRADED,
                since=breaker.since,
                cause=f"{whose} is {breaker.state.value}",
                evidence=breaker.reason,
                next_action="probe" if breaker.next_attempt_at else "",
                next_action_at=breaker.next_attempt_at,
            )
        if isinstance(guard, CallerGuard) and guard.overstaying >= guard.places:
            return PluginStatus(
                PluginState.DEGRADED,
                since=breaker.since,
                cause=f"no place for {share.value}",
                evidence=f"{guard.overstaying} {share.value} go on in the plugin although their time was up",
                next_action="restart the plugin, if they do not end",
            )
    return None


def _not_delivered(broken: Mapping[str, Broken]) -> PluginStatus | None:
    if not broken:
        return None
    name, first = min(broken.items(), key=lambda one: one[1].again_at)
    return PluginStatus(
        PluginState.DEGRADED,
        since=first.since,
        cause=f"nothing is delivered to {name}",
        evidence=first.reason,
        next_action="begin anew from the last cursor",
        next_action_at=first.again_at,
    )


def _lacking(since: float, unmet: tuple[str, ...]) -> PluginStatus | None:
    if not unmet:
        return None
    return PluginStatus(
        PluginState.DEGRADED,
        since=since,
        cause=unmet[0],
        evidence="; ".join(unmet),
        next_action="install, enable or mend what it requires",
    )


def _unwell(since: float, health: Health) -> PluginStatus | None:
    if health.status == "pass":
        return None
    return PluginStatus(
        PluginState.DEGRADED,
        since=since,
        cause=f"the plugin's own health check says {health.status}",
        evidence=health.reason,
    )
