"""Admission: what a delivery waits for before its hook is called. None of the waiting is an attempt."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from host.routing.guard import Guard, Permit
from host.routing.settlements import Settlements
from host.routing.subscriptions import BoundSubscription
from plugin_sdk.calls import HookCall
from plugin_sdk.clock import Clock
from plugin_sdk.resilience import Bulkhead, TokenBucket


class Target(Protocol):
    """The plugin's runtime, as deliveries need it."""

    @property
    def running(self) -> bool:
        """Whether a call would reach the plugin now."""
        ...

    async def wait_running(self) -> None:
        """Wait until the plugin's runtime runs."""
        ...

    def call(self, call: HookCall) -> Awaitable[Any]:
        """Enter the hook; raises `NotRunningError` where no runtime took the call."""
        ...

    def begin(self, call: HookCall, ended: Callable[[BaseException | None], None]) -> Callable[[], None] | None:
        """Enter the hook without a task, as `Runtime.begin`; None where it takes one."""
        ...


class Admission:
    """Lets deliveries of one subscription in: room for their outcomes, a runtime, the policy's own limits, the guard.

    Args:
        subscription: Whose policy has the limits.
        settlements: Take the outcomes, and bound how many wait to be written.
        guard: The plugin's bulkhead and breaker.
        target: The plugin's runtime.
        clock: For the rate.
    """

    def __init__(
        self,
        subscription: BoundSubscription,
        *,
        settlements: Settlements,
        guard: Guard,
        target: Target,
        clock: Clock,
    ) -> None:
        policy = subscription.policy
        self._priority = subscription.priority
        self._settlements = settlements
        self._guard = guard
        self._target = target
        self._plain = policy.in_flight is None and policy.rate is None
        self._places = None if policy.in_flight is None else Bulkhead(policy.in_flight)
        self._bucket = None if policy.rate is None else TokenBucket(policy.rate, max(1.0, policy.rate), clock.monotonic)

    def try_admit(self) -> Permit | None:
        """Leave to make one delivery, where there is no need to wait; as `admit`."""
        if self._plain and self._settlements.has_room and self._target.running:
            return self._guard.admit_now()
        return None

    async def admit(self) -> Permit:
        """Leave to make one delivery, as soon as there is; `left` must be called once it is made or given up."""
        if self._places is not None:
            await self._places.acquire()
        try:
            if self._bucket is not None and (wait := self._bucket.reserve(math.inf)):
                await asyncio.sleep(wait)
            while True:
                await self._settlements.room()
                await self._target.wait_running()
                permit = await self._guard.admit(self._priority)
                if self._target.running:
                    return permit
                permit.give_back()
        except BaseException:  # whatever ended the wait: the place is given back; raised again
            self.left()
            raise

    def left(self) -> None:
        """A delivery that was admitted is over."""
        if self._places is not None:
            self._places.release()

    def give_back(self, permit: Permit) -> None:
        """Let go of a permit without a call."""
        permit.give_back()
        self.left()
