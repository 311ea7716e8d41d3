"""A hundred workers with a plugin that does nothing, for the benchmarks of what a worker costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks import worker
from host.runtime.process import WorkerRuntime

COUNT = 100


@asynccontextmanager
async def workers() -> AsyncIterator[list[WorkerRuntime]]:
    """Workers that are not started yet; the fork server runs already, because one more worker was started."""
    names = [f"nothing-{number}" for number in range(COUNT)]
    async with worker.workers("first", *names, concurrency=8) as (first, *made):
        await first.start()
        yield made
