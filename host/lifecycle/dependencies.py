"""Plugins that need other plugins: who is started after whom, and what becomes of one whose need is not met."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final

from packaging.requirements import Requirement

from host.registry.records import PluginRecord
from host.registry.registry import Registry
from host.registry.states import PluginState, PluginStatus

WAIT_SECONDS: Final = 60.0
"""How long a plugin's start waits for those that it requires; then it starts without them, and is degraded."""
_COMING: Final = frozenset({PluginState.STARTING})
_THERE: Final = frozenset({PluginState.RUNNING, PluginState.DEGRADED})


class Dependencies:
    """Looks at what plugins require of each other.

    Args:
        registry: Which plugins there are, in which version.
        status: Answers the state of a plugin.
        watch: An event that is set whenever the state of a plugin may have changed, as long as it is open.
    """

    def __init__(
        self,
        registry: Registry,
        status: Callable[[str], PluginStatus],
        watch: Callable[[str], AbstractContextManager[asyncio.Event]],
    ) -> None:
        self._registry = registry
        self._status = status
        self._watch = watch

    def unmet(self, requires: Sequence[str]) -> tuple[str, ...]:
        """Why each requirement that is not met is not, a sentence each."""
        return tuple(why for text in requires if (why := self._unmet(Requirement(text))))

    async def wait(self, plugin: str, requires: Sequence[str]) -> None:
        """Wait until what a plugin requires runs, has failed, or has taken too long; not for one that waits for it."""
        for requirement in map(Requirement, requires):
            if plugin in self._needed_by(requirement.name):
                continue  # a circle: somebody has to be the first
            with self._watch(requirement.name) as changed:
                try:
                    async with asyncio.timeout(WAIT_SECONDS):
                        while self._comes(requirement.name):
                            changed.clear()
                            await changed.wait()
                except TimeoutError:
                    continue

    def _comes(self, plugin: str) -> bool:
        """Whether a plugin is on its way."""
        record = self._registry.find(plugin)
        if record is None or not record.enabled or record.missing_grants:
            return False
        state = self._status(plugin).state
        return state in _COMING or state is PluginState.DISABLED  # the latter while nobody has looked at it yet

    def _unmet(self, requirement: Requirement) -> str:
        record = self._registry.find(requirement.name)
        if record is None:
            return f"it requires {requirement}, which is not installed"
        if requirement.specifier and not requirement.specifier.contains(record.version, prereleases=True):
            return f"it requires {requirement}, and {record.id} {record.version} is installed"
        status = self._status(record.id)
        if status.state not in _THERE:
            return f"it requires {requirement}, which is {status.state.value}"
        return ""

    def _needed_by(self, plugin: str) -> set[str]:
        """Everything that a plugin requires, and what that requires, and so on."""
        found: set[str] = set()
        waiting = [plugin]
        while waiting:
            for name in _names(self._registry.find(waiting.pop())):
                if name not in found:
                    found.add(name)
                    waiting.append(name)
        return found


def _names(record: PluginRecord | None) -> Iterator[str]:
    if record is not None:
        for text in record.requires:
            yield Requirement(text).name
