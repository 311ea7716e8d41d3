"""The composition root: builds every part once, hands each what it needs, starts and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from host.administration.administration import Administration
from host.administration.dead_letters import DeadLetters
from host.administration.drop_ins import install_drop_ins
from host.administration.installation import Installation
from host.administration.policies import Policies
from host.administration.replays import Replays
from host.administration.skips import Skips
from host.administration.watch_files import watch_publishers, watch_releases
from host.api.app import SHUTDOWN_SECONDS, Routes, Server
from host.api.bodies import KNOWN_BYTES
from host.api.processes.http_processes import HttpProcesses, figures
from host.api.processes.wire import Begin
from host.api.refusals import Refusals
from host.api.table import Behind, endpoints
from host.identity.access import Tokens
from host.ingress.inbound_webhooks import InboundWebhooks
from host.kit import EventPath, HostLife, Lent, event_path, hosted_parts, make_workshop
from host.lifecycle.dependencies import Dependencies
from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.keeper_parts import KeeperParts
from host.lifecycle.leftovers import clear_leftovers
from host.lifecycle.plugin_alerts import PluginAlerts
from host.lifecycle.plugin_metrics import PluginMetrics
from host.lifecycle.purges import Purges
from host.lifecycle.reconciler import Reconciler
from host.lifecycle.release_gate import ReleaseGate
from host.observe.alerts import Alerts, deaths, losses, tampering
from host.observe.audit import Audit
from host.observe.background_parts import BackgroundParts, PartTrouble
from host.observe.descriptors import Descriptors, raise_limit
from host.observe.health import HealthChecks, background_check, log_writer_check
from host.observe.logging import PluginLogs
from host.observe.metrics import Metrics, RequestCounts
from host.observe.processors import usable_processors
from host.port.key_values import KeyValues
from host.port.services import Services
from host.registry.endpoints import endpoint_of
from host.registry.registry import Registry
from host.resolver import Resolver
from host.routing.bus import Bus
from host.routing.log_budget import LogBudget
from host.routing.log_reports import LogReports
from host.routing.plugin_shares import PluginShares
from host.routing.retry_clock import RetryClock
from host.routing.sqlite_log import SQLiteLog
from host.runtime.egress import EgressBroker
from host.runtime.examiner import EXAMINED, WorkerExaminer
from host.runtime.fork_server import ForkServer
from host.runtime.requests import RequestRates
from host.runtime.runtime import Launch
from host.runtime.sandbox import SandboxPolicy
from host.runtime.sdk_path import distributions
from host.runtime.supervisor import SupervisionLimits
from host.runtime.workshop import WorkerLimits, Workshop
from host.settings import Settings
from host.storage.database import Database
from host.storage.history import History, Loss, needs_keyring
from host.storage.key_value_store import KeyValueStore
from host.storage.keyring import Keyring
from host.storage.log_writer.links import ProcessLink
from host.storage.state_folder import DATABASE, KEY_VALUES, KEYRING, StateFolder
from host.supply.dependencies.fetch import DependencySources
from host.supply.index.index_client import Indexes
from host.supply.index.index_source import IndexSource
from host.supply.installer import Installer, Release
from host.supply.release_store import ReleaseStore
from host.supply.scan.scanner import Scanner, ScanPolicy
from host.supply.trust.drop_ins import load_drop_ins
from host.supply.trust.store import TrustStore
from plugin_sdk.clock import Clock
from plugin_sdk.resilience import BreakerPolicy, TokenBucket

CHECK_MEMORY: Final = 256 * 2**20
"""Memory of the throw-away worker that describes a plugin, where its manifest asks for less."""
FIRST_LOOK_SECONDS: Final = 10.0
"""How long the API waits for the plugins to be looked at; one that takes longer, or fails, comes while it listens."""

_log = structlog.get_logger("daemon")


@dataclass(frozen=True, slots=True)
class Daemon:
    """A host that runs: where it listens, its first token where this is its first start, and the parts that died."""

    address: str
    administrator_token: str | None
    trouble: Callable[[], Sequence[PartTrouble]]


@dataclass(frozen=True, slots=True)
class _Core:
    """What is kept, and the path of an event up to the consumers."""

    database: Database
    history: History
    audit: Audit
    tokens: Tokens
    registry: Registry
    trust: TrustStore
    store: ReleaseStore
    path: EventPath
    bus: Bus
    budget: LogBudget
    shares: PluginShares
    key_values: KeyValues
    logs: PluginLogs


@dataclass(frozen=True, slots=True)
class _Hosting:
    """What runs plugins."""

    fork_server: ForkServer
    reconciler: Reconciler
    administration: Administration
    installation: Installation
    indexes: Indexes
    services: Services


@contextlib.asynccontextmanager
async def running(settings: Settings, clock: Clock) -> AsyncIterator[Daemon]:
    """A whole host, from the database up; on leaving, it is stopped in the opposite order.

    Stopping takes no more events, lets deliveries in flight end within `server.drain`, writes cursors, and
    ends the workers.

    Raises:
        BusbarError: a part could not be started; those before it are stopped.
        OSError: the address cannot be listened on, or the state folder not written.
    """
    async with contextlib.AsyncExitStack() as stack:
        host = await _Builder(settings, clock, stack).build()
        yield host


class _Builder:
    """Builds the parts in the order in which they depend on each other, and says how each is stopped."""

    def __init__(self, settings: Settings, clock: Clock, stack: contextlib.AsyncExitStack) -> None:
        self._settings = settings
        self._clock = clock
        self._stack = stack
        self._state = settings.storage.directory.absolute()  # without its links, once it is open
        self._stopping = asyncio.Event()
        self._resolver = Resolver(settings.sandbox.nameservers)
        self._egress = EgressBroker(self._resolver.resolve)
        self._life = HostLife(stack, BackgroundParts(clock), settings.server.drain)
        self._descriptors = Descriptors.share_out(raise_limit(), settings.server.connections)
        self._reconciler: Reconciler | None = None

    @property
    def _data(self) -> Path:
        """The folder with the data folders of plugins."""
        return self._state / "data"

    async def build(self) -> Daemon:
        if self._descriptors.scarce:
            _log.warning("descriptors_scarce", reason=self._descriptors.scarce)
        core = await self._core()
        hosting = await self._hosting(core)
        daemon = await self._listen(core, hosting)
        folder = self._settings.supply.drop_in_directory
        if folder is not None:
            self._life.background(
                lambda: install_drop_ins(folder, hosting.installation, core.registry), "drop-ins", ends=True
            )
        _log.info("started", address=daemon.address, plugins=len(core.registry.all()))
        return daemon

    async def _core(self) -> _Core:
        """What is kept, and the path of an event up to the consumers."""
        clock, stack = self._clock, self._stack
        if os.geteuid() == 0:
            # Plugins run as users of their own then, who must be able to pass; what is private says so itself.
            os.umask(0o022)
        state = await asyncio.to_thread(StateFolder.open, self._settings.storage.directory.absolute())
        stack.callback(state.close)
        self._state = state.path
        # It is on its way while the rest is looked at.
        link = ProcessLink(state.path / DATABASE)
        await link.prepare()
        stack.push_async_callback(link.stop)
        keyring = await asyncio.to_thread(lambda: Keyring.load(state.path / KEYRING, make=not needs_keyring(state)))
        history = await asyncio.to_thread(History.look, state, keyring)
        database = await Database.open(state.path / DATABASE, clock=clock, link=link)
        stack.push_async_callback(database.close)
        self._life.background(database.writer.lives, "writer", again=False)  # what it left half done, a restart mends
        self._life.background(database.log.run, "log writer")
        key_values = await KeyValueStore.open(state.path / KEY_VALUES, clock=clock)
        stack.push_async_callback(key_values.close)
        self._life.background(key_values.lives, "key-value writer", again=False)
        audit = Audit(database, clock)
        log = await SQLiteLog.open(database, clock)
        await history.begin(database, key_values, log.head(), lambda loss: _tell_of_loss(audit, loss))
        await key_values.take_over(database)
        stack.push_async_callback(lambda: history.end(log.head()))
        self._life.background(lambda: history.run(log.head), "history")
        tokens = Tokens(database, keyring, clock)
        await tokens.load()
        registry = Registry(database, keyring, clock)
        await registry.load()
        trust = TrustStore(database, keyring, clock)
        await trust.load()
        store = ReleaseStore(state.path)
        # A registry that somebody emptied, or that cannot be read, makes no release an orphan.
        unknown = registry.tampered or registry.damaged
        named = None if unknown else {sha256 for record in registry.all() for sha256 in record.releases}
        orphans = await asyncio.to_thread(store.open, named)
        if orphans:
            _log.warning("orphaned_releases_removed", releases=orphans)
        path = await event_path(self._life, log, database, clock)
        bus, budget, shares = self._ingress(log)
        self._life.background(RetryClock(log, path.router, clock).run, "retry clock")
        return _Core(
            database=database,
            history=history,
            audit=audit,
            tokens=tokens,
            registry=registry,
            trust=trust,
            store=store,
            path=path,
            bus=bus,
            budget=budget,
            shares=shares,
            key_values=KeyValues(key_values),
            logs=PluginLogs(),
        )

    def _ingress(self, log: SQLiteLog) -> tuple[Bus, LogBudget, PluginShares]:
        """The way into the log, and what bounds it."""
        settings = self._settings.events

        async def announce(event_type: str, subject: str, data: object) -> None:
            await bus.announce(event_type, subject=subject, data=data)

        budget = LogBudget(
            log, keep_for=settings.keep_for, keep_bytes=settings.keep_bytes, clock=self._clock, announce=announce
        )
        rate = TokenBucket(settings.rate, max(1.0, settings.rate), self._clock.monotonic) if settings.rate else None
        max_body = self._settings.server.event_body
        shares = PluginShares(
            log,
            # Half of it is room for one event of any size, or a plugin with a small share could publish nothing.
            share_bytes=max(int(settings.keep_bytes * settings.plugin_share), 2 * max_body),
            clock=self._clock,
            tell_skipped=budget.tell_skipped,
        )
        bus = Bus(log, max_body=max_body, budget=budget, rate=rate, shares=shares)
        self._life.background(budget.run, "log budget")
        return bus, budget, shares

    async def _hosting(self, core: _Core) -> _Hosting:
        """What runs plugins, and what administrators change it with. Plugins start here."""
        settings, clock = self._settings, self._clock
        workshop = await self._workshop()
        examiner = WorkerExaminer(workshop, core.logs.sink)
        installer = Installer(
            store=core.store,
            trust=core.trust,
            describe=lambda release: examiner.describe(self._examined(release)),
            distributions=await asyncio.to_thread(distributions),
            sources=DependencySources(
                settings.supply.wheel_directories,
                settings.supply.dependency_origins,
                settings.supply.dependency_size,
                settings.supply.dependency_timeout,
            ),
            scanner=Scanner(ScanPolicy(**settings.scan.model_dump()), clock),
            clock=clock,
            max_wheel=settings.server.wheel,
        )
        await self._trust(core)
        purges = Purges(core.database, core.key_values, self._data)
        await purges.resume()
        gate = ReleaseGate(core.registry, installer, core.audit, core.bus)
        reconciler = Reconciler(
            KeeperParts(
                registry=core.registry,
                verify=gate.verify,
                host=lambda record, release, changed: HostedPlugin(record, release, parts, changed),
                forget=installer.forget,
                clear=purges.clear,
                grace=settings.server.drain,
                probation=settings.supply.probation,
                clock=clock,
            )
        )
        core.trust.listen(reconciler.recheck)
        core.registry.listen(lambda plugin: None if core.registry.find(plugin) else core.shares.forget(plugin))
        self._reconciler = reconciler
        services = Services(core.registry, reconciler.hosted, reconciler.status)
        dependencies = Dependencies(core.registry, reconciler.status, reconciler.watch)
        parts = hosted_parts(core.path, workshop, self._lent(core, services, dependencies), clock)
        self._stack.push_async_callback(reconciler.stop)
        if not core.registry.tampered:  # what a plugin left behind is not told by a registry that somebody emptied
            await clear_leftovers(core.registry, core.path.log, core.path.replays, core.path.scheduler)
        reconciler.start()
        if not await reconciler.looked(FIRST_LOOK_SECONDS):
            _log.warning("plugins_not_looked_at", seconds=FIRST_LOOK_SECONDS)
        self._life.background(lambda: watch_releases(core.store.releases, core.registry, reconciler), "release watch")
        administration = Administration(
            registry=core.registry,
            reconciler=reconciler,
            installer=installer,
            log=core.path.log,
            replays=core.path.replays,
            scheduler=core.path.scheduler,
            purges=purges,
            logs=core.logs,
            audit=core.audit,
            validate_config=lambda release, config: examiner.validate_config(self._examined(release), config),
        )
        indexes = await self._stack.enter_async_context(
            Indexes([IndexSource.of(section) for section in settings.supply.indexes])
        )
        installation = Installation(
            registry=core.registry,
            reconciler=reconciler,
            installer=installer,
            indexes=indexes,
            spool=core.store.staging,
            max_wheel=settings.server.wheel,
            audit=core.audit,
            wait_until_upgraded=partial(administration.wait_until_steady, upgraded=True),
        )
        return _Hosting(workshop.fork_server, reconciler, administration, installation, indexes, services)

    async def _trust(self, core: _Core) -> None:
        """Take the publishers of files, now and whenever one is saved."""
        folder = self._settings.supply.publishers_directory
        if folder is None:
            return
        if core.trust.tampered:
            _log.error("publishers_not_loaded", reason=core.trust.tampered)
        else:
            _log.info("publishers_loaded", taken=await load_drop_ins(core.trust, folder))
        if await asyncio.to_thread(folder.is_dir):
            self._life.background(lambda: watch_publishers(folder, core.trust), "publisher watch")

    def _workshop(self) -> Awaitable[Workshop]:
        """What workers are made with."""
        limits = self._settings.limits
        return make_workshop(
            self._life,
            self._state,
            SandboxPolicy(**self._settings.sandbox.model_dump(exclude={"nameservers"})),
            limits=WorkerLimits(
                heartbeat=self._settings.runtime.heartbeat,
                unread=limits.unread,
                messages=limits.messages,
                log_lines=limits.log_lines,
                rates=RequestRates(
                    limits.requests, limits.emits, limits.writes, float(limits.emit_bytes), float(limits.write_bytes)
                ),
            ),
            egress=self._egress,
            modified=self._verify_again,
        )

    def _lent(self, core: _Core, services: Services, dependencies: Dependencies) -> Lent:
        """What plugins are lent."""
        settings = self._settings
        return Lent(
            bus=core.bus,
            key_values=core.key_values,
            audit=core.audit,
            logs=core.logs,
            data=self._data,
            services=services,
            dependencies=dependencies,
            resolver=self._resolver,
            breaker=BreakerPolicy(**settings.breaker.model_dump()),
            supervision=SupervisionLimits(**settings.runtime.model_dump()),
            max_dead_letters=settings.events.dead_letters,
            max_letter_bytes=settings.events.dead_letter_bytes,
        )

    async def _listen(self, core: _Core, hosting: _Hosting) -> Daemon:
        """The API over everything; from here on requests come in."""
        settings = self._settings
        metrics, counts = Metrics(), RequestCounts()
        refusals = Refusals(core.audit)
        self._life.background(refusals.run, "refusals", before_cancel=refusals.write)
        for provider in (counts.metrics, refusals.metrics, core.tokens.guesses.metrics, self._descriptors.metrics):
            metrics.register(provider)
        inbound = InboundWebhooks(partial(endpoint_of, core.registry), core.bus, hosting.reconciler.hosted, self._clock)
        log_reports = LogReports(core.path.log, core.bus, core.budget, core.shares)
        plugin_alerts = PluginAlerts(core.registry, hosting.reconciler)
        plugin_metrics = PluginMetrics(core.registry, hosting.reconciler, core.path.log, self._egress)
        metrics.register(self._life.parts.metrics)
        for provider in (inbound.metrics, log_reports.metrics, plugin_metrics.metrics):
            metrics.register(provider)
        table = endpoints(
            Behind(
                administration=hosting.administration,
                alerts=Alerts(
                    (
                        lambda: tampering("trust-store", core.trust.tampered),
                        lambda: tampering("registry", core.registry.tampered),
                        lambda: losses(core.history),
                        lambda: deaths(self._life.parts),
                        log_reports.alerts,
                        plugin_alerts.alerts,
                    )
                ),
                installation=hosting.installation,
                audit=core.audit,
                bus=core.bus,
                checks=HealthChecks(
                    core.database,
                    (
                        log_reports.check,
                        lambda: log_writer_check(core.database.log),
                        lambda: background_check(self._life.parts),
                        plugin_alerts.check,
                        hosting.fork_server.check,
                        plugin_alerts.check_sandboxes,
                        self._descriptors.check,
                    ),
                ),
                dead_letters=DeadLetters(core.path.log, core.path.router, core.audit),
                inbound=inbound,
                indexes=hosting.indexes,
                log=core.path.log,
                logs=core.logs,
                metrics=metrics,
                policies=Policies(core.registry, hosting.administration.wait_until_caught_up, core.audit),
                reconciler=hosting.reconciler,
                registry=core.registry,
                replays=Replays(
                    core.path.replays, core.path.log, core.registry, hosting.reconciler, core.audit, self._clock
                ),
                scheduler=core.path.scheduler,
                services=hosting.services,
                skips=Skips(
                    registry=core.registry,
                    reconciler=hosting.reconciler,
                    log=core.path.log,
                    replays=core.path.replays,
                    bus=core.bus,
                    budget=core.budget,
                    shares=core.shares,
                    audit=core.audit,
                ),
                tokens=core.tokens,
                trust=core.trust,
                ready=lambda: not self._stopping.is_set(),
                version=importlib.metadata.version("busbar-host"),
                spool=core.store.staging,
                max_event=settings.server.event_body,
                max_wheel=settings.server.wheel,
                public_metrics=settings.auth.public_metrics,
            )
        )
        secret = await core.tokens.bootstrap(again=core.history.token_made)
        await core.history.note_token()
        server = Server(Routes(table, core.tokens, counts, refusals), settings.server, self._descriptors)
        metrics.register(server.connections.counts.metrics)
        self._stack.push_async_callback(server.stop)
        await server.start()
        processes = self._http_processes(core, server, refusals, counts)
        metrics.register(partial(figures, 0, 0) if processes is None else processes.metrics)
        self._stack.callback(server.listen_no_more)
        self._stack.callback(self._drain, core.bus)
        return Daemon(server.address, secret, self._life.parts.trouble)

    def _http_processes(
        self, core: _Core, server: Server, refusals: Refusals, counts: RequestCounts
    ) -> HttpProcesses | None:
        """What serves HTTP beside the host, where the machine has processors for it; it starts in the background."""
        settings = self._settings.server
        count = settings.http_processes(usable_processors())
        if not count:
            return None
        begin = Begin(
            max_event=settings.event_body,
            body_bytes=KNOWN_BYTES // count,
            head=settings.head_within,
            body=settings.body_within,
            idle=settings.idle_for,
            answer=settings.answer_within,
            log_level=self._settings.log.level,
            log_format=self._settings.log.format,
        )
        processes = HttpProcesses(begin, server.connections, core.tokens, core.bus, refusals, counts)
        for number in range(1, count + 1):
            self._life.background(processes.live, f"HTTP process {number}")
        self._stack.push_async_callback(processes.stop, SHUTDOWN_SECONDS)
        return processes

    def _drain(self, bus: Bus) -> None:
        """The first step of stopping: not ready any more, and no more events."""
        self._stopping.set()
        bus.close()

    def _verify_again(self, plugin: str) -> None:
        """A worker found a file that is not what was verified: look at the whole release."""
        if self._reconciler is not None:
            self._reconciler.recheck((plugin,))

    def _examined(self, release: Release) -> Launch:
        """How a release is looked at: as it would run, but with no config, no secret and no grant."""
        limits = release.manifest.runtime
        return Launch(
            plugin=release.plugin,
            folder=release.folder,
            entry_point=release.entry_point,
            config={},
            secrets={},
            isolation="process",
            memory=max(limits.memory, CHECK_MEMORY),
            concurrency=limits.concurrency,
            timeout=limits.timeout,
            data_folder=self._data / EXAMINED / release.plugin,
            dependencies=release.dependencies,
            cold_start=release.cold_start,
            digests=release.digests,
        )


async def _tell_of_loss(audit: Audit, loss: Loss) -> None:
    """Have a loss in the audit trail, for good."""
    detail = {"message": loss.message, "certain": loss.certain}
    await audit.record(actor="host", action="database.check", target=DATABASE, detail=detail, outcome="failed")
