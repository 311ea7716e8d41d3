"""One release of one plugin while it is meant to run: guards, supervised runtime, deliveries and schedules."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from host.errors import BusbarError
from host.lifecycle.applied import Applied, GivenConfig, config_of, identity_of
from host.lifecycle.deliveries import Deliveries, DeliveryParts
from host.lifecycle.dependencies import Dependencies
from host.lifecycle.errors import ConfigNotTakenError, UpgradeFailedError
from host.lifecycle.hosted_status import hosted_status
from host.lifecycle.trouble import sentence
from host.observe.logging import PluginLogs
from host.port.plugin_port import PluginPort
from host.registry.records import PluginRecord
from host.registry.states import PluginStatus
from host.routing.bus import Bus
from host.routing.guard import MAX_AHEAD, Guard
from host.routing.shares import Guards, Share
from host.runtime.errors import NotRunningError, WorkerDiedError
from host.runtime.runtime import Launch, Runtime
from host.runtime.supervisor import SupervisedState, SupervisionLimits, Supervisor
from host.scheduling.scheduler import Scheduler
from host.supply.installer import Release
from plugin_sdk.calls import ConfigCall, Health, HealthCall, HookCall, ServiceCall
from plugin_sdk.clock import Clock
from plugin_sdk.context import HostPort
from plugin_sdk.resilience import BreakerPolicy, BreakerState

HEALTH_SECONDS: Final = 30.0
"""How often a plugin is asked how it is."""
HEALTH_TIMEOUT: Final = 2.0
PREPARE_SECONDS: Final = 80.0
"""How long a new release may take until it runs; its own start has the limit of every start within this."""
MAX_ANNOUNCEMENTS: Final = 16
ANNOUNCE_SECONDS: Final = 5.0
"""How long a plugin's end waits for what is still being said of its breaker."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What every hosted plugin is built from; made once, in the composition root."""

    deliveries: DeliveryParts
    bus: Bus
    scheduler: Scheduler
    dependencies: Dependencies | None
    make_runtime: Callable[[Launch, HostPort], Runtime]
    make_port: Callable[[PluginRecord, Guard], PluginPort]
    data: Path
    logs: PluginLogs
    clock: Clock
    rng: random.Random
    breaker: BreakerPolicy
    supervision: SupervisionLimits


class HostedPlugin:
    """A plugin that is meant to run. Its consumers stand still whenever its runtime does not run.

    What it was made from does not change; what it takes while it runs, `applied` says.

    Args:
        record: The desired state it was made from.
        release: The verified release whose code runs.
        parts: What the host lends it.
        changed: Called whenever what `status` answers may have changed.
    """

    def __init__(self, record: PluginRecord, release: Release, parts: Parts, changed: Callable[[], None]) -> None:
        self.record = record
        self.release = release
        self._parts = parts
        self._changed = changed
        self._stirred = asyncio.Event()
        self._identity = identity_of(record)
        # For the next runtime that is made; and what the one that was made last has.
        self._config = config_of(record)
        self._given: GivenConfig | None = None
        self._policies = record.policies
        self._breaker = "auto"
        limits = release.manifest.runtime
        self.guards = Guards(
            record.id,
            policy=parts.breaker,
            concurrency=limits.concurrency,
            # An inline plugin begins what it is handed at once, so it is handed no more than it has places.
            ahead=0 if limits.isolation == "inline" else MAX_AHEAD,
            clock=parts.clock,
            rng=parts.rng,
            changed=self._breaker_changed,
        )
        self._port = parts.make_port(record, self.guards.deliveries)
        self.supervisor = Supervisor(
            record.id,
            make_runtime=self._make_runtime,
            limits=parts.supervision,
            memory=limits.memory,
            clock=parts.clock,
            rng=parts.rng,
            on_change=self._supervisor_changed,
        )
        self.deliveries = Deliveries(
            record.id,
            parts.deliveries,
            guard=self.guards.deliveries,
            target=self,
            timeout=limits.timeout,
            note_first=limits.isolation == "inline",
            changed=self._changed,
        )
        self.health = Health()
        self._health_task: asyncio.Task[None] | None = None
        self._announcements: set[asyncio.Task[None]] = set()
        self.delivering = False
        self._to_hand_over = False
        if record.breaker != "auto":
            self.apply_breaker(record.breaker)

    # -- life

    @property
    def isolation(self) -> str:
        """Where its code runs: `process` or `inline`."""
        return self.release.manifest.runtime.isolation

    @property
    def applied(self) -> Applied:
        """What it runs with."""
        return Applied(self._identity, self._given, self._policies, self._breaker)

    async def start(self) -> None:
        """Let the runtime start, and events and schedules come; the state tells how it goes.

        Raises:
            BusbarError: events or schedules cannot come; `stop` it.
        """
        self.supervisor.start(self._ready)
        await self.take_over(self.record)

    async def prepare(self) -> None:
        """Start the runtime alone, and wait until it runs and is well.

        Raises:
            UpgradeFailedError: it did not start, ended, or says that it is not well.
        """
        self.supervisor.start(self._ready)
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await self._runs_or_failed()
        except TimeoutError:
            raise UpgradeFailedError(f"{self._named} was not running within {PREPARE_SECONDS:g} s") from None
        if not self.running:
            status = self.supervisor.status
            raise UpgradeFailedError(f"{self._named} did not start: {status.cause}: {status.evidence}")
        self.health = await self._ask_health()
        if self.health.status == "fail":
            raise UpgradeFailedError(f"{self._named} says that it is not well: {self.health.reason}")

    async def take_over(self, record: PluginRecord) -> None:
        """Have events and schedules come, as the record says now.

        On probation, what only the release before had stays where it stands. Errors as in `start`.
        """
        self.delivering = self._to_hand_over = True
        await self.deliveries.start(record, keep_others=record.probation_until is not None)
        self._policies = record.policies
        await self._parts.scheduler.adopt(record.id, record.description.schedules)
        self._health_task = asyncio.create_task(self._watch_health(), name=f"health {record.id}")

    async def hand_over(self, grace: float) -> None:
        """Take nothing more, and let what is in flight end within `grace` seconds; the runtime runs on.

        Raises:
            Exception: something could not be ended. The rest is, and the next call ends what is left.
        """
        self.delivering = False
        if self._health_task is not None:
            self._health_task.cancel()
            await asyncio.wait((self._health_task,))
            self._health_task = None
        await _each(partial(self._parts.scheduler.suspend, self.record.id), partial(self.deliveries.stop, grace))
        self._to_hand_over = False

    async def stop(self, grace: float) -> None:
        """Take nothing more, let what is in flight end within `grace` seconds, stop the runtime.

        Raises:
            Exception: something could not be ended, such as a schedule while the disk is full. The rest is, the runtime
                above all, and the next call ends what is left.
        """
        steps: list[Callable[[], Awaitable[None]]] = [self.supervisor.stop, self.guards.stop, self._end_announcements]
        if self._to_hand_over:
            steps.insert(0, partial(self.hand_over, grace))
        await _each(*steps)

    async def _end_announcements(self) -> None:
        if not self._announcements:
            return
        _, late = await asyncio.wait(tuple(self._announcements), timeout=ANNOUNCE_SECONDS)
        for one in late:
            one.cancel()
        if late:
            await asyncio.wait(late)

    # -- what consumers and the API call

    @property
    def running(self) -> bool:
        """Whether a call would reach the plugin now."""
        return self.supervisor.running

    @property
    def runtime(self) -> Runtime | None:
        """What runs its code, while it runs: deliveries are handed to it."""
        return self.supervisor.runtime

    def call(self, call: HookCall) -> Awaitable[Any]:
        """Enter a hook, without the guard: the caller stands inside it already."""
        return self.supervisor.call(call)

    async def serve(self, call: HookCall, hook: str, longest: float | None = None, *, caller: str) -> Any:
        """Enter a hook for a caller who waits (`longest` seconds): refused soon where breaker or bulkhead refuse.

        Raises:
            BreakerOpenError, BulkheadFullError, HookTimeoutError, NotRunningError, and what the hook raises.
        """
        guard = self.guards.calls if isinstance(call, ServiceCall) else self.guards.requests
        return await guard.serve(
            lambda: self.supervisor.call(call),
            hook,
            caller=caller,
            timeout=self.release.manifest.runtime.timeout,
            longest=longest,
        )

    async def reconfigure(self, record: PluginRecord) -> None:
        """Hand new config and secrets to the running plugin; a runtime that is made from now on has them anyway.

        Where the runtime is just starting, or ends meanwhile, `applied` shows what it has once it runs.

        Raises:
            ConfigNotTakenError: it raised something, or did not answer within the time of a hook.
        """
        config = self._config = config_of(record)
        if not self.running:
            return
        timeout = self.release.manifest.runtime.timeout
        try:
            async with asyncio.timeout(timeout):
                await self.supervisor.call(ConfigCall(config.config, config.secrets))
        except (NotRunningError, WorkerDiedError) as error:
            _log.info("config_left_to_the_next_start", plugin=self.record.id, reason=error.message)
        except TimeoutError:
            raise ConfigNotTakenError(f"config_changed did not end within {timeout:g} s") from None
        except Exception as error:  # whatever a plugin raises is its refusal
            raise ConfigNotTakenError(f"config_changed failed: {sentence(error)}") from error
        else:
            self._given = config

    async def change_policies(self, record: PluginRecord, grace: float) -> None:
        """Deliver under other policies from now on; the plugin runs on."""
        await self.deliveries.change_policies(record, grace)
        self._policies = record.policies

    def apply_breaker(self, wanted: str) -> None:
        """Override the breakers (`open`, `closed`, `disabled`), or let them be (`auto`)."""
        self.guards.override(wanted)
        if wanted != "closed":  # which is done once, and stands for nothing
            self._breaker = wanted

    # -- what it is doing

    def status(self) -> PluginStatus:
        """The plugin's state, and why."""
        return hosted_status(self.supervisor.status, self.guards, self.deliveries.broken, self._unmet, self.health)

    # -- inside

    @property
    def _named(self) -> str:
        return f"{self.record.id} {self.record.version}"

    async def _runs_or_failed(self) -> None:
        """Wait until the runtime runs, or has failed or ended once."""
        ended = {SupervisedState.FAILED, SupervisedState.BACKING_OFF}
        while not self.running and self.supervisor.status.state not in ended:
            self._stirred.clear()
            await self._stirred.wait()

    def _unmet(self) -> tuple[str, ...]:
        dependencies, requires = self._parts.dependencies, self.release.manifest.plugin.requires
        return dependencies.unmet(requires) if dependencies is not None and requires else ()

    def _supervisor_changed(self) -> None:
        self._stirred.set()
        self._changed()
        if self.running:
            self.deliveries.pump()

    async def _ready(self) -> None:
        """Wait for what the plugin requires, for a while."""
        requires = self.release.manifest.plugin.requires
        if self._parts.dependencies is None or not requires:
            return
        try:
            await self._parts.dependencies.wait(self.record.id, requires)
        except Exception:  # noqa: BLE001 - logged with its traceback; the plugin starts without, as when its wait is over
            _log.exception("dependencies_not_waited_for", plugin=self.record.id)

    def _make_runtime(self) -> Runtime:
        record, release = self.record, self.release
        limits = release.manifest.runtime
        config = self._given = self._config
        launch = Launch(
            plugin=record.id,
            folder=release.folder,
            entry_point=release.entry_point,
            config=config.config,
            secrets=config.secrets,
            isolation=limits.isolation,
            memory=limits.memory,
            concurrency=limits.concurrency,
            timeout=limits.timeout,
            data_folder=self._parts.data / record.id,
            network=record.granted.network,
            dependencies=release.dependencies,
            cold_start=release.cold_start,
            digests=release.digests,
        )
        return self._parts.make_runtime(launch, self._port)

    def _breaker_changed(self, share: Share, old: BreakerState, new: BreakerState, reason: str) -> None:
        plugin = self.record.id
        _log.warning("breaker_changed", plugin=plugin, share=share.value, old=old.value, new=new.value, reason=reason)
        self._changed()
        # A bound: a breaker that flaps must not fill memory while the disk refuses.
        if len(self._announcements) < MAX_ANNOUNCEMENTS:
            announcement = asyncio.create_task(self._announce(share, new, reason), name=f"announce {plugin}")
            self._announcements.add(announcement)
            announcement.add_done_callback(self._announcements.discard)

    async def _announce(self, share: Share, state: BreakerState, reason: str) -> None:
        data = {"plugin": self.record.id, "share": share.value, "state": state.value, "reason": reason}
        try:
            await self._parts.bus.announce(f"breaker.{state.value}", subject=self.record.id, data=data)
        except BusbarError as error:
            _log.warning("breaker_not_announced", plugin=self.record.id, error=error.message)

    async def _watch_health(self) -> None:
        while True:
            await self.supervisor.wait_running()
            before = self.health
            self.health = await self._ask_health()
            if self.health != before:
                self._changed()
            await asyncio.sleep(HEALTH_SECONDS)

    async def _ask_health(self) -> Health:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                answer = await self.supervisor.call(HealthCall())
        except TimeoutError:
            return Health("warn", f"check_health did not answer within {HEALTH_TIMEOUT:g} s")
        except Exception as error:  # noqa: BLE001 - whatever a plugin's check raises is its health
            return Health("fail", f"check_health failed: {error}")
        return answer if isinstance(answer, Health) else Health()


async def _each(*steps: Callable[[], Awaitable[None]]) -> None:
    """Take every step, whatever becomes of those before it; the first error is raised, the others are logged."""
    failed: list[Exception] = []
    for step in steps:
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - raised below, or logged
            failed.append(error)
    for other in failed[1:]:
        _log.error("step_failed_too", exc_info=other)
    if failed:
        raise failed[0]
