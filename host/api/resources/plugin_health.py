"""How a plugin is, over HTTP: its health, its breaker and an operator's override of it, what it logged."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from host.administration.administration import Administration
from host.api.endpoint import Answer, Call, Endpoint, View
from host.api.envelope import rfc3339, written
from host.identity.access import Role
from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.reconciler import Reconciler
from host.observe.logging import PluginLogs
from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.registry.states import PluginState, PluginStatus
from host.routing.caller_guard import CallerGuard
from host.routing.guard import Guard
from host.routing.shares import Share

ONE: Final = "/api/v1/plugins/{id}"


class Override(View):
    """What an operator wants of a breaker."""

    state: Literal["closed", "open", "disabled", "auto"]


class LogLines(View):
    """Query of the plugin's log."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class ShareView(View):
    """The breaker of one share of what reaches a plugin, and how many places of it are taken."""

    state: str
    since: str
    reason: str
    consecutive_failures: int
    failure_rate: float | None
    slow_call_rate: float | None
    calls: int
    rejected: int
    next_attempt_at: str | None
    in_flight: int
    places: int


class BreakerView(View):
    """The breaker of a plugin's deliveries, and in `shares` those of `deliveries`, `calls` and `requests`.

    An override is for all of them.
    """

    state: str
    since: str
    reason: str
    override: str
    consecutive_failures: int
    failure_rate: float | None
    slow_call_rate: float | None
    calls: int
    rejected: int
    next_attempt_at: str | None
    shares: dict[str, ShareView]


class CheckView(View):
    """One thing that was looked at."""

    name: str
    status: Literal["pass", "warn", "fail"]
    output: str


class WorkerView(View):
    """The plugin's worker process; pid and memory are null where there is none.

    `started` is `forked`, `cold` or `inline`; `sandbox` says of each part `enforced`, `off` or `unavailable: why`.
    A worker starts cold, which takes longer, where the plugin brings what would take the place of the SDK's libraries.
    """

    isolation: str
    started: str
    cold_start: bool
    cold_start_reason: str
    pid: int | None
    rss_bytes: int | None
    started_at: str | None
    in_flight: int
    sandbox: dict[str, str]


class HealthView(View):
    """How a plugin is."""

    state: PluginState
    since: str
    cause: str
    evidence: str
    next_action: str
    next_action_at: str | None
    checks: list[CheckView]
    breaker: BreakerView | None
    worker: WorkerView | None
    lag: int
    restarts: int
    last_error: str
    last_stack: str


class LogLineView(View):
    """One line that the plugin logged or printed."""

    at: str
    level: str
    message: str


class PluginHealth:
    """The handlers."""

    def __init__(
        self, administration: Administration, registry: Registry, reconciler: Reconciler, logs: PluginLogs
    ) -> None:
        self._administration = administration
        self._registry = registry
        self._reconciler = reconciler
        self._logs = logs

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        viewer, operator = Role.VIEWER, Role.OPERATOR
        return (
            Endpoint(
                "GET",
                ONE + "/health",
                "showPluginHealth",
                "Show how it is.",
                viewer,
                self.health,
                response=HealthView,
            ),
            Endpoint(
                "GET",
                ONE + "/breaker",
                "showBreaker",
                "Show its breakers.",
                viewer,
                self.breaker,
                response=BreakerView,
            ),
            Endpoint(
                "POST",
                ONE + "/breaker",
                "overrideBreaker",
                "Override its breakers.",
                operator,
                self.override,
                request=Override,
                response=BreakerView,
            ),
            Endpoint(
                "GET",
                ONE + "/logs",
                "showLogs",
                "Show what it logged.",
                viewer,
                self.logs,
                query=LogLines,
                response=LogLineView,
                many=True,
            ),
        )

    async def health(self, call: Call) -> Answer:
        """State, checks, breaker, worker, lag, restarts, last error."""
        record = self._registry.get(call.path("id"))
        return Answer(_health(record, self._reconciler.status(record.id), self._reconciler.hosted(record.id)))

    async def breaker(self, call: Call) -> Answer:
        """Its breaker."""
        record = self._registry.get(call.path("id"))
        return Answer(_breaker(record, self._administration.hosted(record.id)))

    async def override(self, call: Call) -> Answer:
        """Override its breaker, or release it."""
        plugin = call.path("id")
        await self._administration.set_breaker(plugin, call.body.state, actor=call.actor)
        return Answer(_breaker(self._registry.get(plugin), self._administration.hosted(plugin)))

    async def logs(self, call: Call) -> Answer:
        """The last lines, the oldest first."""
        record = self._registry.get(call.path("id"))
        lines = self._logs.tail(record.id, call.query.limit)
        return Answer([LogLineView(at=written(line.at), level=line.level, message=line.message) for line in lines])


def _health(record: PluginRecord, status: PluginStatus, hosted: HostedPlugin | None) -> HealthView:
    common: dict[str, Any] = {
        "state": status.state,
        "since": written(status.since),
        "cause": status.cause,
        "evidence": status.evidence,
        "next_action": status.next_action,
        "next_action_at": rfc3339(status.next_action_at),
    }
    if hosted is None:
        return HealthView(
            **common, checks=[], breaker=None, worker=None, lag=0, restarts=0, last_error="", last_stack=""
        )
    supervisor = hosted.supervisor
    seen = supervisor.snapshot()
    worker = None
    if seen is not None:
        worker = WorkerView(
            isolation=seen.isolation,
            started=seen.started,
            cold_start=seen.started == "cold",
            cold_start_reason=seen.cold_start,
            pid=seen.pid,
            rss_bytes=seen.rss_bytes,
            started_at=written(supervisor.status.since) if supervisor.running else None,
            in_flight=seen.in_flight,
            sandbox=dict(seen.sandbox),
        )
    breaker = _breaker(record, hosted)
    refusing = [
        share.reason if name == Share.DELIVERIES.value else f"{name}: {share.reason}"
        for name, share in breaker.shares.items()
        if share.state not in {"closed", "disabled"}
    ]
    checks = [
        CheckView(name="runtime", status="pass" if supervisor.running else "fail", output=supervisor.status.cause),
        CheckView(name="breaker", status="warn" if refusing else "pass", output="; ".join(refusing) or breaker.reason),
        CheckView(name="plugin", status=hosted.health.status, output=hosted.health.reason),
    ]
    return HealthView(
        **common,
        checks=checks,
        breaker=breaker,
        worker=worker,
        lag=hosted.deliveries.lag,
        restarts=supervisor.restarts,
        last_error=supervisor.last_error,
        last_stack=supervisor.last_stack,
    )


def _breaker(record: PluginRecord, hosted: HostedPlugin) -> BreakerView:
    shares = {share.value: _share(guard) for share, guard in hosted.guards}
    first = shares[Share.DELIVERIES.value]
    return BreakerView(
        state=first.state,
        since=first.since,
        reason=first.reason,
        override=record.breaker,
        consecutive_failures=first.consecutive_failures,
        failure_rate=first.failure_rate,
        slow_call_rate=first.slow_call_rate,
        calls=first.calls,
        rejected=first.rejected,
        next_attempt_at=first.next_attempt_at,
        shares=shares,
    )


def _share(guard: Guard | CallerGuard) -> ShareView:
    seen = guard.breaker.snapshot()
    return ShareView(
        state=seen.state.value,
        since=written(seen.since),
        reason=seen.reason,
        consecutive_failures=seen.consecutive_failures,
        failure_rate=seen.failure_rate,
        slow_call_rate=seen.slow_call_rate,
        calls=seen.calls,
        rejected=seen.rejected,
        next_attempt_at=rfc3339(seen.next_attempt_at),
        in_flight=guard.in_flight,
        places=guard.places,
    )
