"""When to look again at what the machine refused to say: soon, and later each time, for a look takes what it lacks."""

from __future__ import annotations

from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
"""Long enough to cost nothing, short enough that nobody need come and start a plugin by hand."""


class LookAgain:
    """When to look again; `at` is in seconds since the epoch, None where nothing was refused."""

    def __init__(self) -> None:
        self._refusals = 0
        self.at: float | None = None

    def refused(self, now: float) -> float:
        """The machine refused once more; how many seconds to wait."""
        wait = min(FIRST_SECONDS * 2.0 ** min(self._refusals, 32), LONGEST_SECONDS)
        self._refusals += 1
        self.at = now + wait
        return wait

    def answered(self) -> None:
        """It did not refuse any more."""
        self._refusals = 0
