"""The token bucket: at most so many calls a second."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk.resilience.numbers import number


class TokenBucket:
    """At most `burst` at once and `rate` a second in the long run.

    It is the "generic cell rate algorithm" of ITU-T I.371: one number, the time at which the bucket would be full
    again, says everything.
    """

    __slots__ = ("_full_at", "_now", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: Callable[[], float]) -> None:
        number("rate", rate, 0, above=True)
        number("burst", burst, 0)
        self.rate = rate
        self.burst = burst
        self._now = now
        self._full_at = now()

    def take(self, count: float = 1.0) -> bool:
        """Take `count` if they are there."""
        return self.reserve(0.0, count) is not None

    def reserve(self, longest: float, count: float = 1.0) -> float | None:
        """Take `count` that will be there within `longest` seconds; the seconds to wait for them, or None."""
        now = self._now()
        ahead = max(0.0, self._full_at - now)
        # In one division: a full bucket must give all of its burst, whatever rounding makes of the clock's seconds.
        wait = max(0.0, ahead + (count - self.burst) / self.rate)
        if wait > longest:
            return None
        self._full_at = now + ahead + count / self.rate
        return wait
