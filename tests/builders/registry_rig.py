"""A real registry on a real database, filled without wheels, and plugins that are functions of the test."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.registry.states import PluginState, PluginStatus
from host.storage.database import Database
from host.storage.keyring import Keyring
from host.supply.installer import Release
from plugin_sdk.description import Description
from plugin_sdk.manifest import Manifest, Permissions
from plugin_sdk.testing import FakeClock


def release(
    plugin: str,
    version: str = "1.0.0",
    *,
    requires: tuple[str, ...] = (),
    permissions: dict[str, Any] | None = None,
    timeout: str = "10s",
) -> Release:
    """A release as verification leaves it, with no file behind it."""
    part = {"id": plugin, "title": plugin.title(), "requires": requires}
    return Release(
        sha256=hashlib.sha256(f"{plugin} {version}".encode()).hexdigest(),
        plugin=plugin,
        version=version,
        publisher="acme",
        sequence=1,
        filename=f"{plugin}-{version}-py3-none-any.whl",
        manifest=Manifest.model_validate(
            {"plugin": part, "permissions": permissions or {}, "runtime": {"timeout": timeout}}
        ),
        entry_point=f"{plugin}:Plugin",
        folder=Path("/nonexistent") / version,
    )


class RegistryRig:
    """A registry, and the states that the plugins in it are said to have."""

    def __init__(self, database: Database, registry: Registry, clock: FakeClock) -> None:
        self.database = database
        self.registry = registry
        self.clock = clock
        self.states: dict[str, PluginStatus] = {}

    async def install(
        self,
        plugin: str,
        version: str = "1.0.0",
        *,
        requires: tuple[str, ...] = (),
        permissions: dict[str, Any] | None = None,
        enabled: bool = True,
        granted: Permissions | None = None,
        **described: Any,
    ) -> PluginRecord:
        """A record in the registry; `described` are fields of the description."""
        found = release(plugin, version, requires=requires, permissions=permissions)
        return await self.registry.install(found, Description(**described), enabled=enabled, granted=granted)

    def say(self, plugin: str, state: PluginState, cause: str = "") -> None:
        """Have a plugin be in a state."""
        self.states[plugin] = PluginStatus(state, 0.0, cause)

    def status(self, plugin: str) -> PluginStatus:
        """The state that was said, or disabled."""
        return self.states.get(plugin, PluginStatus(PluginState.DISABLED, 0.0, "not enabled"))

    async def reloaded(self) -> Registry:
        """Another registry, as after a restart of the host."""
        found = Registry(self.database, Keyring(b"k" * 32), self.clock)
        await found.load()
        return found


class FakeCallee:
    """A hosted plugin: every call is kept, and `answer` says what comes of it."""

    def __init__(self, answer: Callable[[Any], Awaitable[Any]] | None = None, *, running: bool = True) -> None:
        self.running = running
        self.served: list[tuple[Any, str, float | None]] = []
        self.callers: list[str] = []
        self.answer = answer or self._nothing

    @staticmethod
    async def _nothing(_call: Any) -> None:
        return None

    async def serve(self, call: Any, hook: str, longest: float | None = None, *, caller: str) -> Any:
        self.callers.append(caller)
        self.served.append((call, hook, longest))
        return await self.answer(call)


@asynccontextmanager
async def registry_rig(folder: Path):
    """A rig on a database in `folder`."""
    clock = FakeClock()
    database = await Database.open(folder / "busbar.db", clock=clock)
    try:
        registry = Registry(database, Keyring(b"k" * 32), clock)
        await registry.load()
        yield RegistryRig(database, registry, clock)
    finally:
        await database.close()
