"""The states of a plugin as outsiders see them, each with its cause, its evidence and what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class PluginState(Enum):
    """DESIGN names these; the API shows the values."""

    DISABLED = "disabled"
    NEEDS_APPROVAL = "needs-approval"
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    BACKING_OFF = "backing-off"
    FAILED = "failed"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """A state that explains itself.

    `since` and `next_action_at` are seconds since the epoch; `next_action` is what the host, or a person,
    does next, empty where nothing is due.
    """

    state: PluginState
    since: float
    cause: str = ""
    evidence: str = ""
    next_action: str = ""
    next_action_at: float | None = None


STEADY = frozenset(
    {
        PluginState.DISABLED,
        PluginState.NEEDS_APPROVAL,
        PluginState.RUNNING,
        PluginState.DEGRADED,
        PluginState.BACKING_OFF,
        PluginState.FAILED,
    }
)
"""States that stand for a while: a request that waits for the reconciler ends at one of them."""
