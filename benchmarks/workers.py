"""A hundred workers with a plugin that does nothing, for the benchmarks of what a worker costs."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.worker import PLUGIN
from host.runtime.fork_server import ForkServer
from host.runtime.process import WorkerRuntime
from host.runtime.runtime import Launch
from host.runtime.sandbox import Sandbox, SandboxPolicy
from host.runtime.sdk_path import build_sdk_path
from host.runtime.workshop import Workshop

COUNT = 100


@asynccontextmanager
async def workers() -> AsyncIterator[list[WorkerRuntime]]:
    """Workers that are not started yet, with the sandbox on; the fork server runs already."""
    with tempfile.TemporaryDirectory(prefix="busbar-workers-") as name:
        folder = Path(name)
        release = folder / "release"
        release.mkdir()
        (release / "nothing.py").write_text(PLUGIN)
        sdk_path = build_sdk_path(folder)
        fork_server = ForkServer(sdk_path)
        workshop = Workshop(fork_server, Sandbox(SandboxPolicy(), sdk_path))

        def worker(plugin: str) -> WorkerRuntime:
            launch = Launch(
                plugin=plugin,
                folder=release,
                entry_point="nothing:Nothing",
                config={},
                secrets={},
                isolation="process",
                memory=256 * 2**20,
                concurrency=8,
                timeout=10.0,
                data_folder=folder / "data" / plugin,
            )
            return WorkerRuntime(launch, None, workshop, lambda _lines, _dropped: None)

        first = worker("first")
        await first.start()
        made = [worker(f"nothing-{number}") for number in range(COUNT)]
        try:
            yield made
        finally:
            for one in (first, *made):
                await one.stop(1.0, 1.0)
            await fork_server.stop()
