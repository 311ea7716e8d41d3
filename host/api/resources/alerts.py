"""Alerts over HTTP."""

from __future__ import annotations

from typing import Final

from host.api.endpoint import Answer, Call, Endpoint, View
from host.api.envelope import rfc3339
from host.identity.access import Role
from host.observe.alerts import Alert, Alerts, AlertSeverity

BASE: Final = "/api/v1/alerts"


class AlertView(View):
    """Something that is wrong, and what to do about it. `since` is RFC 3339, null where nobody knows."""

    id: str
    severity: AlertSeverity
    subject: str
    code: str
    message: str
    next_action: str
    since: str | None


class AlertResource:
    """The handlers."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "GET",
                BASE,
                "listAlerts",
                "List what is wrong now, worst first.",
                Role.VIEWER,
                self.list,
                response=AlertView,
                many=True,
            ),
        )

    async def list(self, call: Call) -> Answer:  # noqa: ARG002 - every handler takes the call
        """Everything that is wrong now."""
        return Answer([_view(alert) for alert in self._alerts.look()])


def _view(alert: Alert) -> AlertView:
    return AlertView(
        id=alert.id,
        severity=alert.severity,
        subject=alert.subject,
        code=alert.code,
        message=alert.message,
        next_action=alert.next_action,
        since=rfc3339(alert.since),
    )
