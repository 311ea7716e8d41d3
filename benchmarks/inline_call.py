"""One guarded call of an inline hook, beside one bare pluggy call of the same async hook.

Both enter the hook through the same pluggy manager and await what it returns; ours goes through the guard's
admission, places, breaker, time limit and measurement as well.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterable
from functools import partial
from typing import Final

import pluggy
import uvloop

from benchmarks import worker
from benchmarks.measure import Figure
from plugin_sdk import hookspecs
from plugin_sdk.hookspecs import hookimpl

NAME: Final = "inline-call"
ROUNDS: Final = 15
CALLS: Final = 10_000


class _Hooks:
    @hookimpl
    async def on_event(self, event: object, context: object) -> None:
        """Do nothing."""


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure())


async def _measure() -> list[Figure]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(_Hooks())
    hook = partial(manager.hook.on_event, event=None, context=None)
    deliverer = worker.Deliverer(8, None)
    guard = deliverer.guard
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(CALLS):
            await hook()
        theirs.append((time.perf_counter() - started) / CALLS * 1e6)
        started = time.perf_counter()
        for _ in range(CALLS):
            await deliverer.guarded(hook)
        ours.append((time.perf_counter() - started) / CALLS * 1e6)
    assert guard.measures["on_event"].succeeded == ROUNDS * CALLS
    return [Figure(NAME, statistics.median(ours), "µs", "bare pluggy call", statistics.median(theirs))]
