"""The reconciler: makes what runs equal what the registry says, each plugin by a keeper in a task of its own.

A slow or broken plugin keeps only its own task busy, and no task hangs on another one. Nothing else starts or stops
plugins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from host.lifecycle.hosted_plugin import HostedPlugin
from host.lifecycle.keeper import Keeper
from host.lifecycle.keeper_parts import KeeperParts
from host.registry.states import PluginState, PluginStatus

LIFE_AGAIN_SECONDS: Final = 5.0
"""Wait before a keeper whose task ended by what nobody foresaw is given another one."""

_log = structlog.get_logger(__name__)


class Reconciler:
    """One keeper for each plugin of the registry."""

    def __init__(self, parts: KeeperParts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._keepers: dict[str, Keeper] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs = False
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

    # -- life

    def start(self) -> None:
        """Have plugins run as the registry wants them, from now until `stop`; returns at once."""
        self._runs = True
        for record in self._registry.all():
            self._registry_changed(record.id)

    async def looked(self, seconds: float) -> bool:
        """Wait until each plugin was looked at once, at most so long; whether each was.

        None is waited for until it runs, and no release until it has taken over.
        """
        try:
            async with asyncio.timeout(seconds):
                for keeper in tuple(self._keepers.values()):
                    await keeper.looked.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Stop every plugin, all at once. What keeps one from being stopped is logged, and keeps none of the others."""
        self._runs = False
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await asyncio.gather(*(self._stop(keeper) for keeper in self._keepers.values()))

    async def _stop(self, keeper: Keeper) -> None:
        try:
            await keeper.stop()
        except Exception:  # noqa: BLE001 - logged with its traceback; the host ends all the same
            _log.exception("plugin_not_stopped", plugin=keeper.plugin)

    async def _keep(self, keeper: Keeper) -> None:
        while True:
            try:
                await keeper.run()
                break
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # the host stops
                _log.exception("keeper_ended", plugin=keeper.plugin, again_in_seconds=LIFE_AGAIN_SECONDS)
            except Exception:  # noqa: BLE001 - logged with its traceback; what the keeper has goes on with it
                _log.exception("keeper_ended", plugin=keeper.plugin, again_in_seconds=LIFE_AGAIN_SECONDS)
            await asyncio.sleep(LIFE_AGAIN_SECONDS)
            keeper.poke()
        # Only a plugin that left the registry gets here; a later install makes a new keeper.
        if self._keepers.get(keeper.plugin) is keeper:
            del self._keepers[keeper.plugin]

    # -- what others ask of it

    async def caught_up(self, plugin: str) -> None:
        """Wait until every change of this plugin's record made so far was brought to it, or found not to be possible.

        A release that gets ready to take over is not waited for: see `upgrading`.
        """
        keeper = self._keepers.get(plugin)
        if keeper is not None:
            await keeper.caught_up()

    def upgrading(self, plugin: str) -> bool:
        """Whether a release of the plugin is on its way to take over."""
        keeper = self._keepers.get(plugin)
        return keeper is not None and keeper.upgrading

    def gone(self, plugin: str) -> bool:
        """Whether nothing of the plugin runs."""
        keeper = self._keepers.get(plugin)
        return keeper is None or keeper.gone

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

    def left_over(self) -> tuple[tuple[str, PluginStatus], ...]:
        """Plugins that are uninstalled, and of which not everything could be ended or cleared away yet."""
        left = [keeper for keeper in self._keepers.values() if self._registry.find(keeper.plugin) is None]
        return tuple((keeper.plugin, keeper.status()) for keeper in left if keeper.troubled)

    # -- inside

    def _registry_changed(self, plugin: str) -> None:
        if not self._runs:
            return
        keeper = self._keepers.get(plugin)
        if keeper is None:
            if self._registry.find(plugin) is None:
                return
            keeper = self._keepers[plugin] = Keeper(plugin, self._parts, self._state_changed)
            task = asyncio.create_task(self._keep(keeper), name=f"keeper {plugin}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        keeper.poke()

    def _state_changed(self, plugin: str) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(plugin)
            except Exception:  # noqa: BLE001 - logged with its traceback; the plugin's own life must not end by it
                _log.exception("state_listener_failed", plugin=plugin)
