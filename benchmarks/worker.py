"""Workers with a plugin that does nothing, for the benchmarks that call into one or count many."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from host.routing.attempts import Attempt
from host.routing.event_log import StoredEvent
from host.routing.guard import Guard, Landing
from host.runtime.fork_server import ForkServer
from host.runtime.process import WorkerRuntime
from host.runtime.runtime import Launch
from host.runtime.sandbox import Sandbox, SandboxPolicy
from host.runtime.sdk_path import build_sdk_path
from host.runtime.workshop import Workshop
from plugin_sdk.calls import Flight
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import Event, new_event
from plugin_sdk.resilience import Breaker, BreakerPolicy
from plugin_sdk.worker.digests import hash_files, pack

PLUGIN = """
from plugin_sdk import Plugin, on_event

class Nothing(Plugin):
    @on_event("benchmark.*")
    async def nothing(self, event, context):
        pass
"""


def event() -> Event:
    """An event of an ordinary size."""
    return new_event("benchmark.event", source="/benchmarks", data={"text": "some forty characters of plain text" * 3})


@asynccontextmanager
async def workers(*plugins: str, concurrency: int) -> AsyncIterator[list[WorkerRuntime]]:
    """Workers that are not started yet, with the sandbox on; each is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="busbar-worker-") as name:
        folder = Path(name)
        release = folder / "release"
        release.mkdir()
        (release / "nothing.py").write_text(PLUGIN)
        sdk_path = build_sdk_path(folder)
        fork_server = ForkServer(sdk_path)
        workshop = Workshop(fork_server, Sandbox(SandboxPolicy(plugins_as_root=True), sdk_path))
        made = [
            WorkerRuntime(
                Launch(
                    plugin=plugin,
                    folder=release,
                    entry_point="nothing:Nothing",
                    config={},
                    secrets={},
                    isolation="process",
                    memory=256 * 2**20,
                    concurrency=concurrency,
                    timeout=10.0,
                    digests=pack({str(release): hash_files({"nothing.py": PLUGIN.encode()})}),
                    data_folder=folder / "data" / plugin,
                ),
                None,
                workshop,
                lambda _lines, _dropped: None,
            )
            for plugin in plugins
        ]
        try:
            yield made
        finally:
            for one in made:
                await one.stop(1.0, 1.0)
            await fork_server.stop()


@asynccontextmanager
async def worker() -> AsyncIterator[WorkerRuntime]:
    """A worker that is ready."""
    async with workers("nothing", concurrency=256) as (one,):
        await one.start()
        yield one


class Deliverer:
    """Makes one delivery at a time, or many at once, as a consumer does: through the guard and back.

    Args:
        concurrency: Places of the plugin.
        runtime: Makes them.
    """

    key = "nothing/nothing"
    hook = "on_event"
    priority = 0

    def __init__(self, concurrency: int, runtime: Any) -> None:
        self.guard = Guard("nothing", breaker=Breaker(BreakerPolicy(), clock=SystemClock()), places=concurrency)
        self._runtime = runtime
        self._flight = Flight("nothing/nothing", "nothing", replay=False, unfiltered=False)
        made = event()
        self.stored = StoredEvent(1, made, made.to_json(), 0.0)
        self._loop = asyncio.get_running_loop()
        self._ends: dict[Attempt, asyncio.Future[None]] = {}

    async def deliver(self) -> None:
        """Make a delivery, and wait for its end."""
        assert self.guard.room(self)
        attempt = Attempt(self, self.stored, 1, 10.0)
        ended = self._ends[attempt] = self._loop.create_future()
        self.guard.admit((attempt,))
        attempt.runtime = self._runtime
        self._runtime.fly(self._flight, (attempt,), self.guard)
        await ended

    async def guarded(self, hook: Callable[[], Awaitable[object]]) -> None:
        """Enter a hook by hand, within the guard."""
        assert self.guard.room(self)
        attempt = Attempt(self, self.stored, 1, 10.0)
        self.guard.admit((attempt,))
        started = time.perf_counter()
        await hook()
        self.guard.landed(((attempt, None, time.perf_counter() - started),))

    def pump(self) -> None:
        """Nothing waits here."""

    def landed(self, landings: Sequence[Landing]) -> None:
        """Deliveries ended."""
        for attempt, error, _ in landings:
            assert error is None
            ended = self._ends.pop(attempt, None)
            if ended is not None:
                ended.set_result(None)

    def recalled(self, attempts: Sequence[Attempt]) -> None:
        """Nothing is asked back."""

    def fail(self, error: Exception) -> None:
        """A mistake of the benchmark's."""
        raise error
