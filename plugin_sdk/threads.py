"""The threads that plain functions of a plugin run in: some for each kind of hook, apart from each other.

A thread cannot be cancelled. In one pool for all, a few requests that hang in a plain function would take the threads
of every delivery, and whoever sends them decides how many there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import resource
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from plugin_sdk.resilience import Bulkhead

MOST: Final = 64
"""Threads that the shares below are of: what the sandbox lets a worker have unless its settings say otherwise."""


class HookThreads:
    """Threads for the plain functions of one kind of hook; one is started when it is first needed.

    Args:
        name: Of the threads.
        limit: So many at once; who finds none free waits in the loop, where a wait can be cancelled.
        stays: Whether a call that is cancelled goes on until its thread has ended, so that whoever counts calls in
            flight counts the thread, too.
    """

    def __init__(self, name: str, limit: int, *, stays: bool) -> None:
        self._name = name
        self._places = Bulkhead(limit)
        self._stays = stays
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Call a plain function; what it answers is awaited where it must be, as behind a plain wrapper."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        try:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._places.limit, thread_name_prefix=self._name)
            running = self._pool.submit(contextvars.copy_context().run, partial(function, **arguments))
        except BaseException:  # there may be no more threads for this process; raised again
            self._places.release()
            raise
        running.add_done_callback(partial(self._ended, loop))
        answer = asyncio.wrap_future(running, loop=loop)
        try:
            found = await asyncio.shield(answer)
        except asyncio.CancelledError:
            if self._stays:
                await asyncio.wait((answer,))
            raise
        return await found if inspect.isawaitable(found) else found

    def _ended(self, loop: asyncio.AbstractEventLoop, _running: Future[Any]) -> None:
        """Called in the thread. A loop that is closed has nobody left who waits for a place."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._places.release)


class Threads:
    """All threads for one plugin's hooks, apart by kind.

    Deliveries have a quarter of what a process may have, each other kind an eighth; the rest is the plugin's own. Calls
    and requests come from others, so a place that one takes counts until its function has really ended; a delivery that
    is over its time is the plugin's own, and is tried again.
    """

    def __init__(self) -> None:
        most = _threads_of_this_process()
        self.deliveries = HookThreads("delivery", most // 4, stays=False)
        self.calls = HookThreads("call", most // 8, stays=True)
        self.requests = HookThreads("request", most // 8, stays=True)
        self.life = HookThreads("life", most // 8, stays=False)
        self._of = {
            "on_event": self.deliveries,
            "on_schedule": self.deliveries,
            "call": self.calls,
            "handle_request": self.requests,
        }

    def of(self, hook: str) -> HookThreads:
        """The threads for a hook; those about the plugin's life and health have some of their own."""
        return self._of.get(hook, self.life)


def _threads_of_this_process() -> int:
    """How many threads there may be, at least 16 and at most `MOST`: the sandbox has bounded a worker's."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return MOST if allowed == resource.RLIM_INFINITY else max(16, min(allowed, MOST))
