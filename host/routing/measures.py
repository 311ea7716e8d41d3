"""What the guard measures of each hook: plain counters, read by the metrics when someone asks."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of the duration histogram in seconds (OpenTelemetry's for message processing)."""


class HookMeasures:
    """Counts and durations of one hook of one plugin."""

    __slots__ = ("buckets", "callers", "cancelled", "decided", "failed", "seconds", "succeeded", "timed_out")

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.timed_out = 0
        self.decided = 0  # Retry, Drop or DeadLetter, raised on purpose
        self.callers = 0  # ended by the caller's doing: arguments that do not fit, his own deadline
        self.cancelled = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def time(self, duration: float) -> None:
        """Count a duration in seconds."""
        self.seconds += duration
        self.buckets[bisect_left(BUCKETS, duration)] += 1
