"""The parts of the host, looked at one by one for its health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from host.control.reconciler import Reconciler
from host.control.registry import Registry
from host.control.states import PluginState
from host.errors import BusbarError
from host.observe.descriptors import Descriptors
from host.routing.log_budget import LogBudget
from host.runtime.fork_server import ForkServer
from host.storage.database import Database

ANSWER_SECONDS: Final = 2.0
"""How long the database may take to answer."""
UNWELL: Final = frozenset(
    {PluginState.DEGRADED, PluginState.BACKING_OFF, PluginState.FAILED, PluginState.NEEDS_APPROVAL}
)


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the host that was looked at."""

    name: str
    status: Literal["pass", "warn", "fail"]
    output: str = ""
    response_ms: float | None = None


class HostChecks:
    """Looks at the parts."""

    def __init__(
        self,
        database: Database,
        budget: LogBudget,
        registry: Registry,
        reconciler: Reconciler,
        fork_server: ForkServer,
        descriptors: Descriptors,
    ) -> None:
        self._database = database
        self._budget = budget
        self._registry = registry
        self._reconciler = reconciler
        self._fork_server = fork_server
        self._descriptors = descriptors

    async def look(self) -> Sequence[Check]:
        """Every part; only a database that does not answer fails the host, the others warn."""
        return (await self._storage(), self._log(), self._plugins(), self._workers(), self._files())

    async def _storage(self) -> Check:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._database.read("SELECT 1")
        except (TimeoutError, BusbarError, OSError) as error:
            return Check("database", "fail", f"it does not answer: {error or 'time is up'}")
        return Check("database", "pass", response_ms=round((time.perf_counter() - started) * 1000, 2))

    def _log(self) -> Check:
        if not self._budget.full:
            return Check("event-log", "pass")
        held = ", ".join(self._budget.held_by) or "nobody"
        return Check("event-log", "warn", f"it is full, and publishing waits; the oldest events are held by {held}")

    def _plugins(self) -> Check:
        unwell = [
            f"{record.id} is {state.value}"
            for record in self._registry.all()
            if (state := self._reconciler.status(record.id).state) in UNWELL
        ]
        return Check("plugins", "warn" if unwell else "pass", "; ".join(unwell))

    def _workers(self) -> Check:
        return Check("fork-server", "pass", "" if self._fork_server.pid else "not started yet: no plugin needed it")

    def _files(self) -> Check:
        few, opened = self._descriptors, self._descriptors.open_now()
        if opened >= few.ceiling:
            return Check("descriptors", "warn", f"{opened} of {few.limit} are open: new connections are refused")
        return Check("descriptors", "warn" if few.scarce else "pass", few.scarce)
