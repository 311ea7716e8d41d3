"""Time, passed in: everything that decides by time takes a `Clock`, so that a test can turn it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that only ever goes forward, and the one on the wall."""

    def monotonic(self) -> float:
        """Seconds since some fixed instant; never goes back."""
        ...

    def now(self) -> datetime:
        """The wall clock's time, aware, in UTC; may step either way."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    def now(self) -> datetime:
        """Now, in UTC."""
        return datetime.now(UTC)
