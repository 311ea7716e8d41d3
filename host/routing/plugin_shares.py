"""Each plugin's share of the log: who would have more than its share is refused, and nobody else for its sake.

Beyond its share, a plugin's own oldest events go first, however young they are. Where they may not go, because some
subscription did not have them yet, the plugin can publish no more until they may; what was acknowledged stays.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from host.routing.errors import LogShareFullError
from host.routing.event_log import EventLog, Pruned
from plugin_sdk.clock import Clock

LOOK_SECONDS: Final = 1.0
"""How often it is looked at most whether a plugin's events may go by now; each look reads what is held."""
ROOM: Final = 0.9
"""The share of its share down to which a plugin's events are removed, so that not every event of it removes one."""

_log = structlog.get_logger(__name__)


class PluginShares:
    """Keeps what each plugin has in the log within its share.

    Args:
        log: Counts what plugins have.
        share_bytes: What one plugin's events may take; more than the largest event, or nothing could be published.
        clock: For how often it is looked.
        tell_skipped: Says which subscriptions lost events that they do without by their policy.

    Attributes:
        full: The plugins that were refused last, and the subscriptions that held their events then.
        refused: Events that were refused, by plugin.
    """

    def __init__(
        self, log: EventLog, *, share_bytes: int, clock: Clock, tell_skipped: Callable[[Pruned], Awaitable[None]]
    ) -> None:
        self.share_bytes = share_bytes
        self.full: dict[str, tuple[str, ...]] = {}
        self.refused: Counter[str] = Counter()
        self._log = log
        self._clock = clock
        self._tell_skipped = tell_skipped
        self._coming: Counter[str] = Counter()
        self._looked: dict[str, float] = {}
        self._looking = asyncio.Lock()

    @asynccontextmanager
    async def room(self, plugin: str, size: int) -> AsyncIterator[None]:
        """Room for an event of `size` bytes that is appended within.

        Raises:
            LogShareFullError: the plugin's events fill its share, and may not go.
        """
        if self._exceeded(plugin, size):
            await self._make_room(plugin, size)
        self.full.pop(plugin, None)
        self._coming[plugin] += size
        try:
            yield
        finally:
            self._coming[plugin] -= size
            if not self._coming[plugin]:
                del self._coming[plugin]

    def look_again(self) -> None:
        """Something that held events may have let go of them: look as soon as someone wants room."""
        self._looked.clear()

    def forget(self, plugin: str) -> None:
        """Forget what was said of a plugin that is gone; its events count on as long as they are in the log."""
        self.full.pop(plugin, None)
        self.refused.pop(plugin, None)
        self._looked.pop(plugin, None)

    def _exceeded(self, plugin: str, size: int) -> bool:
        return self._log.plugin_bytes(plugin) + self._coming[plugin] + size > self.share_bytes

    async def _make_room(self, plugin: str, size: int) -> None:
        async with self._looking:  # whoever waited here may find that there is room by now
            if not self._exceeded(plugin, size):
                return
            if self._clock.monotonic() - self._looked.get(plugin, -LOOK_SECONDS) >= LOOK_SECONDS:
                left = max(0, int(self.share_bytes * ROOM) - self._coming[plugin] - size)
                pruned = await self._log.prune_plugin(plugin, left)
                await self._tell_skipped(pruned)
                if not self._exceeded(plugin, size):
                    return
                self._looked[plugin] = self._clock.monotonic()
                if plugin not in self.full:
                    _log.error("log_share_full", plugin=plugin, bytes=self.share_bytes, held_by=pruned.held_by)
                self.full[plugin] = pruned.held_by
        self.refused[plugin] += 1
        raise LogShareFullError(plugin, self.share_bytes, self.full.get(plugin, ()), retry_after=LOOK_SECONDS)
