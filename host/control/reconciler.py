"""The reconciler: makes what runs equal what the registry says, each plugin in a task of its own.

A slow or broken plugin keeps only its own task busy. Nothing else starts or stops plugins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from host.control.hosted_plugin import HostedPlugin
from host.control.registry import PluginRecord, Registry
from host.control.states import PluginState, PluginStatus
from host.errors import BusbarError
from plugin_sdk.clock import Clock

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a running plugin was started from; where it differs from the registry, it is started anew."""

    sha256: str
    generation: int
    granted: str


def identity_of(record: PluginRecord) -> Identity:
    """The identity that the registry wants."""
    return Identity(record.sha256, record.generation, record.granted.model_dump_json())


class Keeper:
    """Keeps one plugin as the registry wants it."""

    def __init__(
        self,
        plugin: str,
        *,
        registry: Registry,
        host_plugin: Callable[[PluginRecord, Callable[[], None]], Awaitable[HostedPlugin]],
        grace: float,
        clock: Clock,
        changed: Callable[[str], None],
    ) -> None:
        self.plugin = plugin
        self.hosted: HostedPlugin | None = None
        self._identity: Identity | None = None
        self._config_revision = 0
        self._registry = registry
        self._host_plugin = host_plugin
        self._grace = grace
        self._clock = clock
        self._changed = changed
        self._wanted = 0
        self._done = 0
        self._poked = asyncio.Event()
        self._progress = asyncio.Condition()
        self._status = self._resting()

    def poke(self) -> None:
        """The registry changed: look again."""
        self._wanted += 1
        self._poked.set()

    async def settled(self) -> None:
        """Wait until every change made so far is reconciled."""
        wanted = self._wanted
        async with self._progress:
            await self._progress.wait_for(lambda: self._done >= wanted)

    def status(self) -> PluginStatus:
        """The plugin's state, and why."""
        return self._status if self.hosted is None or self._stopping() else self.hosted.status()

    async def run(self) -> None:
        """Reconcile at each poke until the plugin is no longer in the registry."""
        while True:
            await self._poked.wait()
            self._poked.clear()
            wanted = self._wanted
            await self._reconcile(self._registry.find(self.plugin))
            self._done = wanted
            async with self._progress:
                self._progress.notify_all()
            self._changed(self.plugin)
            if self._registry.find(self.plugin) is None and not self._poked.is_set():
                return

    async def stop(self) -> None:
        """Stop the plugin because the host stops; the registry stays as it is."""
        if self.hosted is not None:
            await self._stop("the host is stopping")

    async def _reconcile(self, record: PluginRecord | None) -> None:
        wanted = identity_of(record) if record and record.enabled and not record.missing_grants else None
        if self.hosted is not None and self._identity != wanted:
            await self._stop("the desired state changed")
        if record is None:
            return
        if wanted is None:
            self._identity = None
            self._status = self._resting(record)
            return
        if self.hosted is None and self._identity != wanted:
            # A start that failed before there was anything to supervise is not repeated for the same
            # desired state: an error that a retry cannot mend is tried once.
            await self._start(record, wanted)
        elif self.hosted is not None and record.config_revision != self._config_revision:
            await self._reconfigure(record)
        if self.hosted is not None and record.policies != self.hosted.record.policies:
            await self.hosted.change_policies(record, self._grace)
        if self.hosted is not None and record.breaker != self.hosted.record.breaker:
            self.hosted.record = record
            self.hosted.apply_breaker(record.breaker)

    async def _start(self, record: PluginRecord, wanted: Identity) -> None:
        self._identity = wanted
        self._config_revision = record.config_revision
        self._say(PluginState.STARTING, "enabled")
        try:
            hosted = await self._host_plugin(record, lambda: self._changed(self.plugin))
            self.hosted = hosted
            await hosted.start()
        except BusbarError as error:
            _log.error("plugin_not_started", plugin=self.plugin, code=error.word, reason=error.message)
            if self.hosted is not None:
                await self.hosted.stop(0)
                self.hosted = None
            self._say(PluginState.FAILED, error.word, error.message, "mend it, then restart or upgrade the plugin")

    async def _stop(self, cause: str) -> None:
        hosted = self.hosted
        if hosted is None:
            return
        self._say(PluginState.STOPPING, cause)
        await hosted.stop(self._grace)
        self.hosted = None
        self._identity = None
        self._status = self._resting(self._registry.find(self.plugin))

    async def _reconfigure(self, record: PluginRecord) -> None:
        hosted = self.hosted
        if hosted is None:
            return
        self._config_revision = record.config_revision
        try:
            await hosted.reconfigure(record)
        except Exception as error:  # noqa: BLE001 - a plugin that cannot take config is started anew with it
            _log.warning("config_not_taken", plugin=self.plugin, reason=str(error))
            await self._stop("new config needs a restart")
            await self._start(record, identity_of(record))

    def _stopping(self) -> bool:
        return self._status.state is PluginState.STOPPING

    def _resting(self, record: PluginRecord | None = None) -> PluginStatus:
        now = self._clock.now().timestamp()
        if record is not None and record.enabled and record.missing_grants:
            return PluginStatus(
                PluginState.NEEDS_APPROVAL,
                now,
                "the release asks for permissions that are not granted",
                ", ".join(record.missing_grants),
                f"an administrator grants them with PUT /api/v1/plugins/{record.id}/grants",
            )
        return PluginStatus(
            PluginState.DISABLED, now, "not enabled", next_action="POST …/enable starts it" if record else ""
        )

    def _say(self, state: PluginState, cause: str, evidence: str = "", next_action: str = "") -> None:
        self._status = PluginStatus(state, self._clock.now().timestamp(), cause, evidence, next_action)
        self._changed(self.plugin)


class Reconciler:
    """One keeper for each plugin of the registry."""

    def __init__(
        self,
        registry: Registry,
        host_plugin: Callable[[PluginRecord, Callable[[], None]], Awaitable[HostedPlugin]],
        *,
        grace: float,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._host_plugin = host_plugin
        self._grace = grace
        self._clock = clock
        self._keepers: dict[str, Keeper] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listeners: list[Callable[[str], None]] = []
        registry.listen(self._registry_changed)

    def listen(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with a plugin's id whenever its state may have changed."""
        self._listeners.append(changed)

    @contextmanager
    def watch(self, plugin: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the state of `plugin` may have changed, for as long as this is open."""
        changed = asyncio.Event()

        def tell(which: str) -> None:
            if which == plugin:
                changed.set()

        self._listeners.append(tell)
        try:
            yield changed
        finally:
            self._listeners.remove(tell)

    async def run(self, started: asyncio.Event) -> None:
        """Reconcile until cancelled; `started` is set once every plugin was looked at the first time."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for record in self._registry.all():
                self._registry_changed(record.id)
            await asyncio.gather(*(keeper.settled() for keeper in tuple(self._keepers.values())))
            started.set()
            await asyncio.Event().wait()

    async def stop(self) -> None:
        """Stop every plugin, all at once; `run` must have been cancelled before."""
        async with asyncio.TaskGroup() as group:
            for keeper in self._keepers.values():
                group.create_task(keeper.stop())

    async def settled(self, plugin: str) -> None:
        """Wait until every change of this plugin's record made so far is reconciled."""
        keeper = self._keepers.get(plugin)
        if keeper is not None:
            await keeper.settled()

    def hosted(self, plugin: str) -> HostedPlugin | None:
        """The plugin as it is hosted now, or None."""
        keeper = self._keepers.get(plugin)
        return None if keeper is None else keeper.hosted

    def all_hosted(self) -> tuple[HostedPlugin, ...]:
        """Every plugin that is hosted now."""
        return tuple(keeper.hosted for keeper in self._keepers.values() if keeper.hosted is not None)

    def status(self, plugin: str) -> PluginStatus:
        """The state of an installed plugin, and why."""
        keeper = self._keepers.get(plugin)
        if keeper is None:
            return PluginStatus(PluginState.DISABLED, self._clock.now().timestamp(), "not enabled")
        return keeper.status()

    def _registry_changed(self, plugin: str) -> None:
        if self._group is None:
            return
        keeper = self._keepers.get(plugin)
        if keeper is None:
            if self._registry.find(plugin) is None:
                return
            keeper = Keeper(
                plugin,
                registry=self._registry,
                host_plugin=self._host_plugin,
                grace=self._grace,
                clock=self._clock,
                changed=self._state_changed,
            )
            self._keepers[plugin] = keeper
            self._tasks[plugin] = self._group.create_task(self._keep(keeper), name=f"keeper {plugin}")
        keeper.poke()

    async def _keep(self, keeper: Keeper) -> None:
        await keeper.run()
        # Only a plugin that left the registry gets here; a later install makes a new keeper.
        if self._keepers.get(keeper.plugin) is keeper:
            del self._keepers[keeper.plugin]

    def _state_changed(self, plugin: str) -> None:
        for listener in tuple(self._listeners):
            listener(plugin)
