"""The reconciler: makes what runs equal what the registry says, each plugin by a keeper in a task of its own.

A slow or broken plugin keeps only its own task busy. Nothing else starts or stops plugins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog

from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.keeper import Keeper, KeeperParts
from host.registry.states import PluginState, PluginStatus

_log = structlog.get_logger(__name__)


class Reconciler:
    """One keeper for each plugin of the registry."""

    def __init__(self, parts: KeeperParts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._keepers: dict[str, Keeper] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._registry.listen(self._registry_changed)

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

    def recheck(self, plugins: Iterable[str] | None = None) -> None:
        """Have the releases of these plugins, or of all, verified anew: trust changed, or something on the disk."""
        for plugin in tuple(self._keepers if plugins is None else plugins):
            if plugin in self._keepers:
                self._keepers[plugin].poke(recheck=True)

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
            return PluginStatus(PluginState.DISABLED, self._parts.clock.now().timestamp(), "not enabled")
        return keeper.status()

    def _registry_changed(self, plugin: str) -> None:
        if self._group is None:
            return
        keeper = self._keepers.get(plugin)
        if keeper is None:
            if self._registry.find(plugin) is None:
                return
            keeper = Keeper(plugin, self._parts, self._state_changed)
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
            try:
                listener(plugin)
            except Exception:  # noqa: BLE001 - logged with its traceback; the plugin's own life must not end by it
                _log.exception("state_listener_failed", plugin=plugin)
