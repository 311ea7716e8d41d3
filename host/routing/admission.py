"""Admission: what an attempt waits for before it is made. None of the waiting is an attempt."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from host.routing.guard import Guard, Owner
from host.routing.settlements import Settlements
from host.routing.subscriptions import BoundSubscription
from host.runtime.runtime import Runtime
from plugin_sdk.clock import Clock
from plugin_sdk.resilience import TokenBucket


class Target(Protocol):
    """The plugin, as deliveries need it. Who makes it pumps the consumers once there is a runtime again."""

    @property
    def runtime(self) -> Runtime | None:
        """What runs, while it runs."""
        ...


class Admission:
    """Says how many attempts of one subscription may be made: room for outcomes, a runtime, the policy, the guard.

    Args:
        subscription: Whose policy has limits.
        owner: Who makes the attempts; pumped once there may be room where there was none.
        settlements: Take the outcomes, and bound how many wait to be written.
        guard: The plugin's places and breaker.
        target: The plugin.
        clock: For the rate.
    """

    def __init__(
        self,
        subscription: BoundSubscription,
        owner: Owner,
        *,
        settlements: Settlements,
        guard: Guard,
        target: Target,
        clock: Clock,
    ) -> None:
        policy = subscription.policy
        self._plugin = subscription.plugin
        self._owner = owner
        self._settlements = settlements
        self._guard = guard
        self._target = target
        self._most = policy.in_flight
        self._bucket = None if policy.rate is None else TokenBucket(policy.rate, max(1.0, policy.rate), clock.monotonic)
        self._paid = False  # the rate allows one more, now or when the timer fires
        self._timer: asyncio.TimerHandle | None = None

    def room(self, under_way: int) -> int:
        """How many attempts may be made now, beside those under way."""
        if self._target.runtime is None:
            return 0
        if not self._settlements.has_room(self._plugin):
            self._settlements.when_room(self._owner)
            return 0
        room = self._guard.room(self._owner)
        if self._most is not None:
            room = min(room, self._most - under_way)
        if self._bucket is not None and room > 0:
            room = self._by_rate(self._bucket)
        return room

    def made(self) -> None:
        """Attempts are made."""
        self._paid = False

    def close(self) -> None:
        """Nothing more is admitted."""
        self._guard.forget(self._owner)
        if self._timer is not None:
            self._timer.cancel()

    def _by_rate(self, bucket: TokenBucket) -> int:
        """One, where its time has come."""
        if not self._paid:
            wait = bucket.reserve(math.inf) or 0.0
            self._paid = True
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._due)
        return int(self._timer is None)

    def _due(self) -> None:
        self._timer = None
        self._owner.pump()
