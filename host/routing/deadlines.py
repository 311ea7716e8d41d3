"""Time limits of many deliveries by one timer: of those with one limit, the time of the oldest is up first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from host.routing.attempts import Attempt


class Deadlines:
    """Counts the time of attempts that have begun.

    The timer is set for the attempt that is the oldest when it is set. It is not stopped when that one ends, so it
    fires once in a time limit at most, whatever number of attempts are made.

    Args:
        expired: Told of each whose time is up; it is to be ended there.
    """

    def __init__(self, expired: Callable[[Attempt], None]) -> None:
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._limits: dict[float, dict[Attempt, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0
        self.count = 0
        """How many attempts are counted."""

    def __iter__(self) -> Iterator[Attempt]:
        for counted in self._limits.values():
            yield from counted

    def start(self, attempt: Attempt) -> None:
        """Count the time of an attempt that begins, from now on."""
        timeout = attempt.timeout
        at = self._loop.time() + timeout
        counted = self._limits.get(timeout)
        if counted is None:
            counted = self._limits[timeout] = {}
        counted[attempt] = at
        self.count += 1
        if self._timer is None or at < self._fires_at:
            self._set(at)

    def restart(self, attempt: Attempt) -> None:
        """Count its time from now again."""
        self.end(attempt)
        self.start(attempt)

    def end(self, attempt: Attempt) -> None:
        """It ended: count no more."""
        del self._limits[attempt.timeout][attempt]
        self.count -= 1

    def close(self) -> None:
        """Let the timer go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = at
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        late = [attempt for counted in self._limits.values() for attempt, at in _oldest_until(counted, now)]
        for attempt in late:
            self._expired(attempt)
        # Timeouts come and go with policies.
        self._limits = {timeout: counted for timeout, counted in self._limits.items() if counted}
        following = min((next(iter(counted.values())) for counted in self._limits.values()), default=None)
        if following is not None and (self._timer is None or following < self._fires_at):
            self._set(following)


def _oldest_until(counted: dict[Attempt, float], now: float) -> Iterator[tuple[Attempt, float]]:
    for found in counted.items():
        if found[1] > now:
            return
        yield found
