"""The guard of those who wait for an answer: callers of services, and senders of requests.

It differs from the deliveries' guard in whose fault an end can be. Who calls is not the plugin: his deadline, his wrong
arguments and his going away say nothing about it. And in who holds a place: a call that nobody waits for any more
holds its own until its hook has really ended, so what goes on in the plugin is bounded whatever its callers do.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from host.routing.errors import BreakerOpenError, BulkheadFullError, HookTimeoutError
from host.routing.measures import HookMeasures
from host.runtime.errors import HookFailedError, NotRunningError
from plugin_sdk.clock import Clock
from plugin_sdk.errors import ArgumentsError, HostError, Verdict
from plugin_sdk.resilience import Breaker, Bulkhead

PLACE_SECONDS: Final = 1.0
"""How long a caller waits for a place."""
MAX_WAITING: Final = 64
"""Callers that may wait for a place in one guard, each with what he sent; one more is refused at once."""
MAX_WAITING_EACH: Final = MAX_WAITING // 2
"""Of them, those that wait behind calls of the same caller."""
CYCLE: Final = "call_cycle"
_IPV6_NETWORK: Final = 64
"""Bits of an IPv6 address that say whose it is (RFC 6177): anybody has all that follow."""


class CallerGuard:
    """The guard of one share of what others ask of a plugin.

    One caller holds at most half of the places, so that nobody alone locks the others out; of a single place, all.

    Args:
        plugin: Whose hooks it guards.
        breaker: Lets calls through, or does not.
        places: Calls in flight at most.
        clock: Measures.
    """

    def __init__(self, plugin: str, *, breaker: Breaker, places: int, clock: Clock) -> None:
        self.plugin = plugin
        self.breaker = breaker
        self.bulkhead = Bulkhead(places)
        self.measures: dict[str, HookMeasures] = {}
        self.overstaying = 0
        """Calls that nobody waits for any more, and whose hooks go on all the same."""
        self._now = clock.monotonic
        self._each = max(1, places // 2)
        # Only callers who hold or wait for a place, so never more than the places and `MAX_WAITING` together.
        self._callers: dict[str, Bulkhead] = {}
        self._waiting = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def places(self) -> int:
        """Calls in flight at most."""
        return self.bulkhead.limit

    @property
    def in_flight(self) -> int:
        """Calls that go on, whether anybody waits for them or not."""
        return self.bulkhead.in_use

    async def serve(
        self,
        invoke: Callable[[], Awaitable[Any]],
        hook: str,
        *,
        caller: str,
        timeout: float,  # noqa: ASYNC109 - whose it is decides whose failure its end is
        longest: float | None = None,
    ) -> Any:
        """Make a call for `caller`, and answer what comes of it; what `invoke` raises comes out unchanged.

        Args:
            invoke: Enters the hook; cancelling it cancels the hook, and it ends when the hook has.
            hook: Whose measures count.
            caller: Who shares one part of the places.
            timeout: Seconds that the plugin has; not to end in them is its failure.
            longest: Seconds that the caller waits; where they are fewer, their end is no failure of the plugin's.

        Raises:
            BreakerOpenError: the breaker lets nothing through; `retry_after` says when it may.
            BulkheadFullError: there was no place within a second, or too many wait for one.
            HookTimeoutError: the time was up; the call was cancelled.
        """
        limit = timeout if longest is None else min(timeout, longest)
        token = await self._admit(caller, min(limit, PLACE_SECONDS))
        measures = self.measures.get(hook)
        if measures is None:
            measures = self.measures[hook] = HookMeasures()
        started = self._now()
        task = asyncio.get_running_loop().create_task(_entered(invoke), name=f"{hook} of {self.plugin}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._over, caller))
        try:
            await asyncio.wait((task,), timeout=limit)
        except asyncio.CancelledError:
            measures.cancelled += 1
            self._give_up(task, token)
            raise
        duration = self._now() - started
        if not task.done():
            mine = limit < timeout
            measures.time(limit)
            self._give_up(task, token if mine else None)
            late = HookTimeoutError(
                f"{self.plugin}: {hook} did not end within {limit:g} s" + (", the time its caller has" if mine else "")
            )
            if mine:
                measures.callers += 1
            else:
                measures.timed_out += 1
                self.breaker.failure(token, limit, f"{type(late).__name__}: {late}")
            raise late
        error = _error_of(task)
        # Of two deadlines in a chain of calls the inner one can be heard first: it is the caller's all the same.
        self._judge(token, measures, duration, error, cut_off=limit < timeout and duration >= limit)
        if error is not None:
            raise error
        return task.result()

    async def stop(self) -> None:
        """Wait for what goes on; the runtime has ended, so its hooks have."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    # -- admission

    async def _admit(self, caller: str, longest: float) -> int:
        """A place, and the breaker's consent."""
        token = self._consent()
        own = self._callers.get(caller)
        if own is None:
            own = self._callers[caller] = Bulkhead(self._each)
        if own.try_acquire():
            if self.bulkhead.try_acquire():
                return token
            own.release()
        self.breaker.ignore(token)  # a probe is not to be held by somebody who waits
        try:
            await self._place(own, longest)
        finally:
            self._forget(caller)
        try:
            return self._consent()
        except BreakerOpenError:
            self._leave(caller)
            raise

    async def _place(self, own: Bulkhead, longest: float) -> None:
        """Wait for a place of the caller's part, and then for one of all."""
        if self._waiting >= MAX_WAITING or own.waiting >= MAX_WAITING_EACH:
            raise self._full()
        self._waiting += 1
        try:
            async with asyncio.timeout(longest):
                await own.acquire()
                try:
                    await self.bulkhead.acquire()
                except BaseException:  # whatever ended the wait: the place is given back; raised again
                    own.release()
                    raise
        except TimeoutError:
            raise self._full() from None
        finally:
            self._waiting -= 1

    def _consent(self) -> int:
        """The breaker's leave to make one call."""
        token = self.breaker.try_acquire()
        if token is None:
            raise BreakerOpenError(
                f"the breaker of {self.plugin} is {self.breaker.state.value} ({self.breaker.reason}): try again later",
                retry_after=self.breaker.wait_hint(),
            )
        return token

    def _full(self) -> BulkheadFullError:
        return BulkheadFullError(
            f"{self.plugin} is busy with {self.bulkhead.in_use} calls, and serves at most {self._each} of one caller: "
            "try again shortly",
            retry_after=1.0,
        )

    # -- the end of a call

    def _give_up(self, task: asyncio.Task[Any], token: int | None) -> None:
        """Cancel a call that nobody waits for any more; with a token, it says nothing about the plugin."""
        if token is not None:
            self.breaker.ignore(token)
        if not task.done():
            self.overstaying += 1
            task.add_done_callback(self._went)
            task.cancel()

    def _went(self, _task: asyncio.Task[Any]) -> None:
        self.overstaying -= 1

    def _over(self, caller: str, task: asyncio.Task[Any]) -> None:
        """The hook of a call has ended."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: there may be nobody left to raise it to
        self._leave(caller)

    def _leave(self, caller: str) -> None:
        self.bulkhead.release()
        self._callers[caller].release()
        self._forget(caller)

    def _forget(self, caller: str) -> None:
        own = self._callers.get(caller)  # of several that give up in one turn, the first has forgotten it for all
        if own is not None and not own.in_use and not own.waiting:
            del self._callers[caller]

    def _judge(
        self, token: int, measures: HookMeasures, duration: float, error: BaseException | None, *, cut_off: bool
    ) -> None:
        """Tell breaker and measures how a call ended that somebody still waited for."""
        if isinstance(error, NotRunningError):
            measures.cancelled += 1
            self.breaker.ignore(token)  # no runtime took the call: that says nothing about the plugin's code
            return
        measures.time(duration)
        if error is None:
            measures.succeeded += 1
            self.breaker.success(token, duration)
        elif isinstance(error, Verdict):
            measures.decided += 1
            self.breaker.ignore(token)
        elif cut_off or _callers_mistake(error):
            measures.callers += 1
            self.breaker.ignore(token)
        else:
            measures.failed += 1
            self.breaker.failure(token, duration, f"{type(error).__name__}: {error}")


def party(address: str) -> str:
    """Who an address is, for fairness: of IPv6 the network that one party has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), _IPV6_NETWORK), strict=False))
    return str(found)


def _callers_mistake(error: BaseException) -> bool:
    """Arguments that do not fit; or a chain of calls that comes back to where it began, which its callers made."""
    return isinstance(error, ArgumentsError) or (isinstance(error, HostError) and error.word == CYCLE)


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """What a call raised. A cancellation that nobody asked for is the hook's own, and no cancellation of its caller."""
    if task.cancelled():
        return HookFailedError("CancelledError", "the hook cancelled itself")
    return task.exception()


async def _entered(invoke: Callable[[], Awaitable[Any]]) -> Any:
    return await invoke()
