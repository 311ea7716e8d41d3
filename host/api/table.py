"""The table of every endpoint that there is: what is in it is routed, served and documented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from host.administration.administration import Administration
from host.administration.dead_letters import DeadLetters
from host.administration.installation import Installation
from host.administration.policies import Policies
from host.administration.replays import Replays
from host.administration.skips import Skips
from host.api.endpoint import Endpoint
from host.api.resources.alerts import AlertResource
from host.api.resources.dead_letters import DeadLetterResource
from host.api.resources.deliveries import PluginDeliveries
from host.api.resources.events import Events
from host.api.resources.filter_tests import FilterTests
from host.api.resources.hooks import Hooks
from host.api.resources.marketplace import Marketplace
from host.api.resources.plugin_health import PluginHealth
from host.api.resources.plugin_releases import PluginReleases
from host.api.resources.plugin_routes import PluginRoutes
from host.api.resources.plugins import Plugins
from host.api.resources.publishers import Publishers
from host.api.resources.publishing import Publishing
from host.api.resources.replays import ReplayResource
from host.api.resources.schedules import Schedules
from host.api.resources.skips import PluginSkips
from host.api.resources.system import System
from host.api.resources.tokens import TokenResource
from host.api.resources.trust_policies import TrustPolicies
from host.identity.access import Tokens
from host.ingress.inbound_webhooks import InboundWebhooks
from host.lifecycle.reconciler import Reconciler
from host.observe.alerts import Alerts
from host.observe.audit import Audit
from host.observe.health import HealthChecks
from host.observe.logging import PluginLogs
from host.observe.metrics import Metrics
from host.port.services import Services
from host.registry.registry import Registry
from host.routing.bus import Bus
from host.routing.event_log import EventLog
from host.scheduling.scheduler import Scheduler
from host.supply.index.findings import Installed
from host.supply.index.index_client import Indexes
from host.supply.trust.store import TrustStore


@dataclass(frozen=True, slots=True)
class Behind:
    """What stands behind the endpoints. `spool` is a folder for wheels while they are received; sizes are in bytes."""

    administration: Administration
    alerts: Alerts
    audit: Audit
    bus: Bus
    checks: HealthChecks
    dead_letters: DeadLetters
    inbound: InboundWebhooks
    indexes: Indexes
    installation: Installation
    log: EventLog
    logs: PluginLogs
    metrics: Metrics
    policies: Policies
    reconciler: Reconciler
    registry: Registry
    replays: Replays
    scheduler: Scheduler
    services: Services
    skips: Skips
    tokens: Tokens
    trust: TrustStore
    ready: Callable[[], bool]
    version: str
    spool: Path
    max_event: int
    max_wheel: int
    public_metrics: bool


def endpoints(behind: Behind) -> tuple[Endpoint, ...]:
    """Every endpoint, the OpenAPI document of all of them among them."""
    system = System(
        tokens=behind.tokens,
        metrics=behind.metrics,
        audit=behind.audit,
        checks=behind.checks.look,
        ready=behind.ready,
        public_metrics=behind.public_metrics,
        version=behind.version,
    )
    releases = PluginReleases(
        installation=behind.installation,
        registry=behind.registry,
        reconciler=behind.reconciler,
        spool=behind.spool,
        max_wheel=behind.max_wheel,
    )
    plugins = Plugins(
        administration=behind.administration,
        registry=behind.registry,
        reconciler=behind.reconciler,
        services=behind.services,
    )
    table = (
        *plugins.endpoints(),
        *releases.endpoints(),
        *PluginHealth(behind.administration, behind.registry, behind.reconciler, behind.logs).endpoints(),
        *Events(Publishing(behind.bus, behind.max_event), behind.log).endpoints(),
        *DeadLetterResource(behind.dead_letters).endpoints(),
        *PluginDeliveries(behind.registry, behind.policies, behind.log).endpoints(),
        *PluginSkips(behind.skips).endpoints(),
        *ReplayResource(behind.replays).endpoints(),
        *FilterTests().endpoints(),
        *Schedules(behind.scheduler, behind.audit).endpoints(),
        *Publishers(behind.trust, behind.audit).endpoints(),
        *TrustPolicies(behind.trust, behind.registry, behind.audit).endpoints(),
        *Marketplace(behind.indexes, lambda: _installed(behind.registry)).endpoints(),
        *TokenResource(behind.tokens, behind.audit).endpoints(),
        *AlertResource(behind.alerts).endpoints(),
        *system.endpoints(),
        *PluginRoutes(behind.administration).endpoints(),
        *Hooks(behind.inbound, behind.max_event).endpoints(),
    )
    system.describe(table)
    return table


def _installed(registry: Registry) -> list[Installed]:
    """The installed plugins as the marketplace knows them."""
    return [
        Installed(record.id, record.version, None if record.origin is None else record.origin.index)
        for record in registry.all()
    ]
