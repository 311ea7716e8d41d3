"""Plugins over HTTP: install, look, change what is wanted, configure, call."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from host.api.endpoint import Answer, ApiRequest, Endpoint, PageQuery, View
from host.api.errors import BadRequestError
from host.api.releases import receive_release
from host.control.access import Role
from host.control.administration import Administration
from host.control.reconciler import Reconciler
from host.control.registry import PluginRecord, Registry
from host.control.states import PluginState, PluginStatus
from host.observe.logging import PluginLogs
from host.routing.event_log import DeliveryRecord, EventLog, Outcome
from plugin_sdk.clock import Clock
from plugin_sdk.manifest import Permissions
from plugin_sdk.resilience import BreakerSnapshot

BASE: Final = "/api/v1/plugins"


class PluginList(PageQuery):
    """Query of the list."""

    state: PluginState | None = None
    q: Annotated[str | None, Field(max_length=200, description="Part of an id or title.")] = None


class Install(View):
    """Query of an install."""

    enable: bool = False
    wait: bool = True


class Wait(View):
    """Whether to answer only once the change is reconciled."""

    wait: bool = True


class Uninstall(View):
    """Query of an uninstall."""

    purge: bool = False


class Override(View):
    """What an operator wants of a breaker."""

    state: Literal["closed", "open", "disabled", "auto"]


class DeliveryList(PageQuery):
    """Query of the attempt log."""

    outcome: Outcome | None = None


class LogLines(View):
    """Query of the plugin's log."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class PermissionsView(View):
    """Permissions of a manifest, or grants."""

    subscribe: list[str] = []
    publish: list[str] = []
    call: list[str] = []
    network: list[str] = []
    secrets: list[str] = []
    webhooks: list[str] = []
    routes: bool = False


class PluginView(View):
    """A plugin as the API shows it. Times are RFC 3339."""

    id: str
    title: str
    version: str
    publisher: str
    release: Annotated[str, Field(description="SHA-256 of the wheel.")]
    enabled: bool
    state: PluginState
    since: str
    cause: str
    evidence: str
    next_action: str
    next_action_at: str | None
    permissions: PermissionsView
    grants: PermissionsView
    missing_grants: list[str]
    subscriptions: list[str]
    schedules: list[str]
    services: list[str]
    installed_at: str
    changed_at: str


class BreakerView(View):
    """A breaker as the API shows it."""

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


class CheckView(View):
    """One thing that was looked at."""

    name: str
    status: Literal["pass", "warn", "fail"]
    output: str


class WorkerView(View):
    """The plugin's worker process; pid and memory are null where there is none."""

    isolation: str
    pid: int | None
    rss_bytes: int | None
    started_at: str | None
    in_flight: int


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


class DeliveryView(View):
    """One attempt of one delivery."""

    delivery: str
    subscription: str
    sequence: int
    event_id: str
    attempt: int
    outcome: Outcome
    started_at: str
    duration_ms: float
    error: str


class LogLineView(View):
    """One line that the plugin logged or printed."""

    at: str
    level: str
    message: str


class Plugins:
    """The handlers."""

    def __init__(
        self,
        *,
        administration: Administration,
        registry: Registry,
        reconciler: Reconciler,
        log: EventLog,
        logs: PluginLogs,
        clock: Clock,
    ) -> None:
        self._administration = administration
        self._registry = registry
        self._reconciler = reconciler
        self._log = log
        self._logs = logs
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The routes."""
        one = BASE + "/{id}"
        viewer, operator, admin = Role.VIEWER, Role.OPERATOR, Role.ADMIN
        plugin, status = PluginView, PluginView
        return (
            Endpoint("GET", BASE, "listPlugins", self.list, viewer, query=PluginList, response=plugin, many=True),
            Endpoint("POST", BASE, "installPlugin", self.install, admin, query=Install, response=plugin, status=201, form=("wheel", "attestations")),
            Endpoint("GET", one, "showPlugin", self.show, viewer, response=plugin),
            Endpoint("DELETE", one, "uninstallPlugin", self.uninstall, admin, query=Uninstall),
            Endpoint("POST", one + "/enable", "enablePlugin", self.enable, operator, query=Wait, response=status),
            Endpoint("POST", one + "/disable", "disablePlugin", self.disable, operator, query=Wait, response=status),
            Endpoint("POST", one + "/restart", "restartPlugin", self.restart, operator, query=Wait, response=status),
            Endpoint("GET", one + "/config", "showConfig", self.config, viewer),
            Endpoint("PUT", one + "/config", "changeConfig", self.configure, admin, request=dict),
            Endpoint("GET", one + "/config/schema", "showConfigSchema", self.schema, viewer),
            Endpoint("GET", one + "/grants", "showGrants", self.grants, viewer, response=PermissionsView),
            Endpoint("PUT", one + "/grants", "changeGrants", self.grant, admin, request=PermissionsView, response=PermissionsView),
            Endpoint("GET", one + "/health", "showHealth", self.health, viewer, response=HealthView),
            Endpoint("GET", one + "/breaker", "showBreaker", self.breaker, viewer, response=BreakerView),
            Endpoint("POST", one + "/breaker", "overrideBreaker", self.override, operator, request=Override, response=BreakerView),
            Endpoint("GET", one + "/deliveries", "listDeliveries", self.deliveries, viewer, query=DeliveryList, response=DeliveryView, many=True),
            Endpoint("GET", one + "/logs", "showLogs", self.logs, viewer, query=LogLines, response=LogLineView, many=True),
            Endpoint("POST", one + "/call/{method}", "callService", self.call, operator, request=dict),
        )
