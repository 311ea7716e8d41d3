"""A plugin as those see it who wait for its answer: callers of services, senders of requests."""

from __future__ import annotations

from typing import Any, Protocol

from plugin_sdk.calls import HookCall


class Callee(Protocol):
    """A plugin that serves calls."""

    @property
    def running(self) -> bool:
        """Whether a call would reach the plugin now."""
        ...

    async def serve(self, call: HookCall, hook: str, longest: float | None = None, *, caller: str) -> Any:
        """Enter a hook for a caller who waits, for at most `longest` seconds; a caller holds part of the places."""
        ...
