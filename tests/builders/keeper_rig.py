"""Ten plugins or one on real keepers: a real database, registry, log, router and scheduler; workers and wheels are not.

Every step of a keeper's life can be made to raise for one plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from registry_rig import release

from host.administration.administration import Administration
from host.kit import EventPath, HostLife, event_path
from host.lifecycle.deliveries import DeliveryParts
from host.lifecycle.hosted_plugin import HostedPlugin, Parts
from host.lifecycle.keeper_parts import KeeperParts
from host.lifecycle.purges import Purges
from host.lifecycle.reconciler import Reconciler
from host.observe.audit import Audit
from host.observe.background_parts import BackgroundParts
from host.observe.logging import PluginLogs
from host.port.key_values import KeyValues
from host.registry.records import PluginRecord, ReleaseRecord
from host.registry.registry import Registry
from host.registry.states import PluginState, PluginStatus
from host.routing.bus import Bus
from host.routing.sqlite_log import SQLiteLog
from host.runtime.errors import HookFailedError, StartFailedError
from host.runtime.exits import ExitReason
from host.runtime.runtime import Launch, RuntimeSnapshot
from host.runtime.supervisor import SupervisionLimits
from host.storage.database import Database
from host.storage.key_value_store import KeyValueStore
from host.storage.keyring import Keyring
from host.supply.installer import Release
from plugin_sdk.calls import ConfigCall, Flight, Health, HealthCall, delivery_call
from plugin_sdk.clock import Clock, SystemClock
from plugin_sdk.description import Description, Subscription
from plugin_sdk.resilience import BreakerPolicy
from plugin_sdk.schedule import Schedule

GENEROUS = 30.0
"""Seconds; nothing here takes long, but the machine may be slow."""


@dataclass
class Script:
    """How the runtimes of one plugin behave."""

    start: Callable[[FakeRuntime], Awaitable[None]] | None = None
    config: Callable[[ConfigCall], Awaitable[None]] | None = None
    health: Health = field(default_factory=Health)


class FakeRuntime:
    """A runtime without a process: it has config and secrets, and keeps every event that it is called with."""

    def __init__(self, launch: Launch, script: Script) -> None:
        self.plugin = launch.plugin
        self.version = launch.folder.name
        self.config = launch.config
        self.secrets = launch.secrets
        self.script = script
        self.events: list[Any] = []
        self.running = False
        self.exited: asyncio.Future[ExitReason] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        if self.script.start is not None:
            await self.script.start(self)
        self.running = True

    def fly(self, flight: Flight, handed: Any, hands: Any) -> None:
        self.events += [delivery_call(flight, one.stored.sequence, one.attempt, one.stored.event) for one in handed]
        landings = [(one, None, 0.0) for one in handed]
        asyncio.get_running_loop().call_soon(hands.landed, landings)

    def cancel(self, _handed: Any) -> None:
        return None

    def recall(self, _handed: Any) -> None:
        return None

    def go_on(self) -> None:
        return None

    async def call(self, call: Any) -> Any:
        if isinstance(call, HealthCall):
            return self.script.health
        if isinstance(call, ConfigCall):
            if self.script.config is not None:
                await self.script.config(call)
            self.config, self.secrets = call.config, call.secrets
            return None
        self.events.append(call)
        return None

    async def stop(self, _stop_hook: float, _term: float) -> None:
        self.kill("stopped")

    def kill(self, why: str, *, ask_where: bool = False) -> None:
        self.running = False
        if not self.exited.done():
            self.exited.set_result(ExitReason(why, why))

    async def look_after(self) -> None:
        return None

    def snapshot(self) -> RuntimeSnapshot:
        return RuntimeSnapshot("process", "forked", 1, 1, 0, 0.0, 0.0, {})


class Faults:
    """Steps that raise what nobody foresaw, by step and plugin."""

    def __init__(self) -> None:
        self.on: dict[tuple[str, str], Exception] = {}

    def start(self, step: str, plugin: str, error: Exception | None = None) -> None:
        self.on[step, plugin] = error or RuntimeError(f"{step} broke")

    def stop(self) -> None:
        self.on.clear()

    def watch(self, owner: Any, method: str, step: str) -> None:
        """Have a method of an object raise where its first argument is of the plugin (`id` or `id/...`)."""
        original = getattr(owner, method)

        def check(first: Any) -> None:
            error = self.on.get((step, str(getattr(first, "id", first)).partition("/")[0]))
            if error is not None:
                raise error

        async def waited(first: Any, *more: Any, **named: Any) -> Any:
            check(first)
            return await original(first, *more, **named)

        def called(first: Any, *more: Any, **named: Any) -> Any:
            check(first)
            return original(first, *more, **named)

        setattr(owner, method, waited if inspect.iscoroutinefunction(original) else called)


class KeeperRig:
    """Keepers over real parts. `releases` has what verification finds, by hash."""

    def __init__(
        self,
        database: Database,
        key_values: KeyValueStore,
        log: SQLiteLog,
        path: EventPath,
        clock: Clock,
        folder: Path,
        *,
        restarts: int,
    ) -> None:
        self.clock = clock
        self.database = database
        self.log = log
        self.path = path
        self.registry = Registry(database, Keyring(b"k" * 32), clock)
        self.bus = Bus(log, max_body=2**20)
        self.scripts: dict[str, Script] = {}
        self.runtimes: list[FakeRuntime] = []
        self.releases: dict[str, Release] = {}
        self.forgotten: list[str] = []
        self.faults = Faults()
        self._parts = Parts(
            deliveries=DeliveryParts(
                log=log,
                replays=path.replays,
                router=path.router,
                settlements=path.settlements,
                clock=clock,
                rng=random.Random(1),
                max_dead_letters=100,
            ),
            bus=self.bus,
            scheduler=path.scheduler,
            dependencies=None,
            make_runtime=self._runtime,  # type: ignore[arg-type]  # as much of one as is asked for here
            make_port=lambda _record, _guard: SimpleNamespace(),  # type: ignore[arg-type,return-value]  # nobody calls it
            data=Path("/nonexistent"),
            logs=PluginLogs(),
            clock=clock,
            rng=random.Random(1),
            breaker=BreakerPolicy(),
            supervision=SupervisionLimits(first_restart=0.001, longest_restart=0.002, restarts=restarts),
        )
        purges = Purges(database, KeyValues(key_values), folder / "data")
        self.parts = KeeperParts(
            registry=self.registry,
            verify=self._verify,
            host=self._host,
            forget=self._forget,
            clear=self._clear,
            grace=1.0,
            probation=60.0,
            clock=clock,
        )
        self.reconciler = Reconciler(self.parts)
        self.administration = Administration(
            registry=self.registry,
            reconciler=self.reconciler,
            installer=SimpleNamespace(verify_installed=self._installed),  # type: ignore[arg-type]  # all that is asked
            log=log,
            replays=path.replays,
            scheduler=path.scheduler,
            purges=purges,
            logs=PluginLogs(),
            audit=Audit(database, clock),
            validate_config=self._fits,
        )
        self.faults.watch(self.registry, "find", "reading the record")
        self.faults.watch(self.registry, "promote", "promoting")
        self.faults.watch(self.registry, "withdraw", "withdrawing")
        self.faults.watch(self.registry, "roll_back", "going back")
        self.faults.watch(self.registry, "end_probation", "ending the probation")
        self.faults.watch(self.registry, "wait_for_approval", "asking for approval")
        self.faults.watch(log, "cursor", "taking up cursors")
        self.faults.watch(log, "retire", "dropping cursors")
        self.faults.watch(path.scheduler, "adopt", "adopting schedules")
        self.faults.watch(path.scheduler, "suspend", "suspending schedules")

    # -- what keepers are made with

    def _runtime(self, launch: Launch, _port: Any) -> FakeRuntime:
        made = FakeRuntime(launch, self.scripts.setdefault(launch.plugin, Script()))
        self.runtimes.append(made)
        return made

    def _raise(self, step: str, plugin: str) -> None:
        error = self.faults.on.get((step, plugin))
        if error is not None:
            raise error

    async def _verify(self, record: PluginRecord) -> Release:
        self._raise("verifying", record.id)
        return self.releases[record.sha256]

    async def _installed(self, sha256: str) -> Release:
        return self.releases[sha256]

    async def _fits(self, _release: Release, _config: dict[str, Any]) -> None:
        return None

    def _host(self, record: PluginRecord, found: Release, changed: Callable[[], None]) -> HostedPlugin:
        self._raise("making", record.id)
        made = HostedPlugin(record, found, self._parts, changed)
        override = made.guards.override

        def overridden(wanted: str) -> None:
            self._raise("overriding the breaker", record.id)
            override(wanted)

        made.guards.override = overridden  # type: ignore[method-assign]  # the step that a test breaks
        return made

    async def _forget(self, sha256: str) -> None:
        self._raise("forgetting", self.releases[sha256].plugin)
        self.forgotten.append(sha256)

    async def _clear(self, plugin: str) -> None:
        self._raise("clearing", plugin)

    # -- what tests do

    def release(self, plugin: str, version: str = "1.0.0", **more: Any) -> Release:
        """A release that verification finds good."""
        made = release(plugin, version, **more)
        self.releases[made.sha256] = made
        return made

    def description(self, plugin: str) -> Description:
        """A subscription and a schedule of its own."""
        return Description(
            subscriptions=(Subscription(name="s", types=(f"{plugin}.happened",)),),
            schedules=(Schedule(name="yearly", cron="0 0 1 1 *"),),
        )

    async def install(self, plugin: str, **more: Any) -> PluginRecord:
        return await self.registry.install(self.release(plugin, **more), self.description(plugin), enabled=True)

    def open_breaker(self, plugin: str) -> None:
        """Have the plugin fail at its deliveries until its breaker opens."""
        breaker = self.hosted(plugin).guards.deliveries.breaker
        for _ in range(5):
            breaker.failure(breaker.try_acquire(), 0.1, "boom")

    async def propose(self, plugin: str, version: str = "2.0.0", **more: Any) -> ReleaseRecord:
        """A release that is to take over."""
        fresh = ReleaseRecord.of(self.release(plugin, version, **more), self.description(plugin))
        await self.registry.propose(plugin, fresh, enabled=False)
        return fresh

    def status(self, plugin: str) -> PluginStatus:
        return self.reconciler.status(plugin)

    def hosted(self, plugin: str) -> HostedPlugin:
        found = self.reconciler.hosted(plugin)
        assert found is not None
        return found

    def running(self, plugin: str) -> list[FakeRuntime]:
        """Every runtime of a plugin that runs, wherever it is."""
        return [one for one in self.runtimes if one.plugin == plugin and one.running]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(GENEROUS):
            while not condition():
                await asyncio.sleep(0.002)

    async def caught_up(self, plugin: str) -> None:
        async with asyncio.timeout(GENEROUS):
            await self.reconciler.caught_up(plugin)

    async def until_running(self, *plugins: str) -> None:
        """Until they run, and have all that is wanted."""
        for one in plugins:
            await self.caught_up(one)
        await self.until(lambda: all(self.status(one).state is PluginState.RUNNING for one in plugins))


@contextlib.asynccontextmanager
async def keeper_rig(folder: Path, clock: Clock | None = None, *, restarts: int = 5):
    """A rig on a database in `folder`, whose reconciler is not started yet; leaving it is an orderly stop."""
    clock = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        life = HostLife(stack, BackgroundParts(clock), 1.0)
        database = await Database.open(folder / "busbar.db", clock=clock)
        stack.push_async_callback(database.close)
        log = await SQLiteLog.open(database, clock)
        path = await event_path(life, log, database, clock)
        key_values = await KeyValueStore.open(folder / "key-values.db", clock=clock)
        stack.push_async_callback(key_values.close)
        rig = KeeperRig(database, key_values, log, path, clock, folder, restarts=restarts)
        await rig.registry.load()
        stack.push_async_callback(rig.reconciler.stop)
        yield rig
        rig.faults.stop()


async def refuses(_call: ConfigCall) -> None:
    """A plugin that takes no config."""
    raise HookFailedError("ValueError", "no such thing")


async def does_not_start(_runtime: FakeRuntime) -> None:
    """A plugin whose code cannot be loaded."""
    raise StartFailedError("it cannot be loaded", retryable=False)
