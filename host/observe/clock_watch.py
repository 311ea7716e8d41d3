"""Notices that the clock on the wall was set, or that the machine slept: its two clocks disagree then."""

from __future__ import annotations

from typing import Final

from plugin_sdk.clock import Clock

TOLERATED_SECONDS: Final = 5.0
"""Time servers slew a clock by less between two looks."""


class ClockWatch:
    """Compares how far the two clocks went since the last look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall, self._forward = self._read()

    def step(self) -> float:
        """Seconds by which the wall clock stepped since the last look, below 0 for back; 0.0 where it did not."""
        wall, forward = self._read()
        stepped = (wall - self._wall) - (forward - self._forward)
        self._wall, self._forward = wall, forward
        return stepped if abs(stepped) > TOLERATED_SECONDS else 0.0

    def _read(self) -> tuple[float, float]:
        return self._clock.now().timestamp(), self._clock.monotonic()
