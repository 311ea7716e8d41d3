"""How often and how late what failed is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from plugin_sdk.resilience.numbers import check, number

Growth = Literal["exponential", "linear"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how late a failed delivery is tried again. Times are in seconds.

    The wait before attempt n+1 is `first` times `factor` to the power n-1 (`exponential`) or `first` times n
    (`linear`), at most `longest`; or the nth of `delays`, where there are any, and the last of them from then on.
    Up to `jitter` of it is added or taken away by chance, so that what failed together does not come back together.
    """

    attempts: int = 8
    first: float = 1.0
    longest: float = 3600.0
    factor: float = 2.0
    jitter: float = 0.2
    growth: Growth = "exponential"
    delays: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse with a `ValueError` what is no wait, or no number of attempts."""
        check(self, "attempts", 1)
        for name in ("first", "longest"):
            check(self, name, 0)
        check(self, "factor", 1)
        check(self, "jitter", 0, 1)
        if self.growth not in get_args(Growth):
            raise ValueError(f"growth is {' or '.join(get_args(Growth))}, not {self.growth!r}")
        for wait in self.delays:
            number("delays", wait, 0)

    def delay(self, attempt: int, *, rng: random.Random | None = None) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed."""
        number = min(max(attempt, 1), 1024)
        if self.delays:
            longest = max(self.delays)
            wait = self.delays[min(number, len(self.delays)) - 1]
        else:
            longest = self.longest
            wait = self.first * (number if self.growth == "linear" else self.factor ** min(number - 1, 64))
        wait = min(wait, longest)
        if rng is not None:
            wait *= 1 + self.jitter * (2 * rng.random() - 1)
        return min(wait, longest)
