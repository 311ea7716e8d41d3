"""Alerts: what is wrong with the host and its plugins now, worst first. One is gone when its cause is.

Each part of the host answers its own; here they are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from host.observe.background_parts import BackgroundParts, PartTrouble
from host.storage.history import History
from host.storage.state_folder import DATABASE, KEY_VALUES


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


class Alerts:
    """Asks every part that may know of something wrong.

    Args:
        sources: Each answers the alerts of one part.
    """

    def __init__(self, sources: Iterable[Callable[[], Iterable[Alert]]]) -> None:
        self._sources = tuple(sources)

    def look(self) -> list[Alert]:
        """Every alert there is now: the critical ones first, then by their ids."""
        found = [alert for source in self._sources for alert in source()]
        return sorted(found, key=lambda alert: (alert.severity is not AlertSeverity.CRITICAL, alert.id))


def tampering(name: str, cause: str) -> list[Alert]:
    """That somebody changed what this host sealed, if somebody did."""
    if not cause:
        return []
    code = f"{name.replace('-', '_')}_tampered"
    mend = "look at it, mend it, then 'busbar publisher confirm'"
    return [Alert(f"host/{name}", AlertSeverity.CRITICAL, name, code, cause, mend, None)]


def deaths(parts: BackgroundParts) -> list[Alert]:
    """The background parts that died."""
    return [_death(trouble) for trouble in parts.trouble()]


def losses(history: History) -> list[Alert]:
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
            "stop the other program that did; stopping this host cleanly writes all that it has into its databases"
            if name not in {DATABASE, KEY_VALUES}
            else "the host still has it open: stop publishing, and copy it from the daemon's /proc/PID/fd"
        )
        found.append(
            Alert(
                f"state/missing/{name}", AlertSeverity.CRITICAL, "state", "state_file_taken_away", message, mend, None
            )
        )
    return found


def _death(trouble: PartTrouble) -> Alert:
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
