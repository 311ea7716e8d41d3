"""The shares of one plugin: what it is delivered, what plugins and people call, what strangers request.

Each has places and a breaker of its own, so none can take those of another: not with a flood, not with calls that hang,
not with failures. An operator's word is for all three.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial

from host.routing.caller_guard import CallerGuard
from host.routing.guard import Guard
from plugin_sdk.clock import Clock
from plugin_sdk.resilience import Breaker, BreakerPolicy, BreakerState


class Share(Enum):
    """A part of what reaches a plugin; the API, metrics and events show the values."""

    DELIVERIES = "deliveries"
    CALLS = "calls"
    REQUESTS = "requests"


class Guards:
    """The guards of one plugin. `concurrency` bounds each by itself, so at most three times as much is in flight.

    Args:
        plugin: Whose hooks they guard.
        policy: When each of the breakers opens.
        concurrency: Places of each share.
        ahead: Deliveries that may be on their way beyond the places.
        clock: Their time.
        rng: For the jitter of open times.
        changed: Called with the share whenever its breaker changes: the old state, the new one, and why.
    """

    def __init__(
        self,
        plugin: str,
        *,
        policy: BreakerPolicy,
        concurrency: int,
        ahead: int,
        clock: Clock,
        rng: random.Random,
        changed: Callable[[Share, BreakerState, BreakerState, str], None],
    ) -> None:
        def breaker(share: Share) -> Breaker:
            made = Breaker(policy, clock=clock, rng=rng)
            made.listen(partial(changed, share))
            return made

        self.deliveries = Guard(plugin, breaker=breaker(Share.DELIVERIES), places=concurrency, ahead=ahead)
        self.calls = CallerGuard(plugin, breaker=breaker(Share.CALLS), places=concurrency, clock=clock)
        self.requests = CallerGuard(plugin, breaker=breaker(Share.REQUESTS), places=concurrency, clock=clock)

    def __iter__(self) -> Iterator[tuple[Share, Guard | CallerGuard]]:
        """Each share with its guard, deliveries first."""
        yield Share.DELIVERIES, self.deliveries
        yield Share.CALLS, self.calls
        yield Share.REQUESTS, self.requests

    def override(self, wanted: str) -> None:
        """Override every breaker (`open`, `closed`, `disabled`), or let them be (`auto`)."""
        for _, guard in self:
            match wanted:
                case "open":
                    guard.breaker.force_open("forced open by an operator")
                case "disabled":
                    guard.breaker.disable("disabled by an operator")
                case "closed":
                    guard.breaker.close("closed by an operator")
                case _:
                    guard.breaker.auto("released by an operator")

    async def stop(self) -> None:
        """Wait for the calls that go on, once the runtime has ended."""
        await self.calls.stop()
        await self.requests.stop()
