"""Workers with a plugin that does nothing, for the benchmarks that call into one or count many."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from host.routing.guard import Guard
from host.runtime.fork_server import ForkServer
from host.runtime.process import WorkerRuntime
from host.runtime.runtime import Launch
from host.runtime.sandbox import Sandbox, SandboxPolicy
from host.runtime.sdk_path import build_sdk_path
from host.runtime.workshop import Workshop
from plugin_sdk.calls import Delivery, EventCall
from plugin_sdk.clock import SystemClock
from plugin_sdk.events import new_event
from plugin_sdk.resilience import Breaker, BreakerPolicy, Bulkhead
from plugin_sdk.worker.digests import hash_files, pack

PLUGIN = """
from plugin_sdk import Plugin, on_event

class Nothing(Plugin):
    @on_event("benchmark.*")
    async def nothing(self, event, context):
        pass
"""


def call() -> EventCall:
    """A delivery of an event of an ordinary size."""
    event = new_event("benchmark.event", source="/benchmarks", data={"text": "some forty characters of plain text" * 3})
    return EventCall(event, Delivery("nothing/nothing/1", "nothing", 1, 1))


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


def guard(concurrency: int) -> Guard:
    """A guard as a plugin has it."""
    clock = SystemClock()
    breaker = Breaker(BreakerPolicy(), clock=clock)
    return Guard("nothing", breaker=breaker, bulkhead=Bulkhead(concurrency), clock=clock)
