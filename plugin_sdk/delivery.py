"""How a subscription wants its events: attempts and back-off, limits, order, and what becomes of failures.

`DeliveryPolicy` is what an author writes beside a subscription and what an administrator may override for one
host. Every default suits most plugins.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypedDict, get_args

import msgspec

from plugin_sdk.errors import DescriptionError
from plugin_sdk.resilience import RetryPolicy

MAX_ATTEMPTS: Final = 100
MAX_TIMEOUT: Final = 3600
MAX_WAIT: Final = 30 * 86_400.0
"""The longest a delivery can be put off at once, in seconds: a month."""
MAX_IN_FLIGHT: Final = 1000
MAX_RATE: Final = 100_000.0
MAX_PRIORITY: Final = 100

Growth = Literal["exponential", "linear"]
Order = Literal["none", "by-key", "strict"]
AtFailure = Literal["block", "set-aside"]
DeadLetters = Literal["keep", "discard"]
Behind = Literal["hold", "skip"]


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How deliveries of one subscription are made. Times are in seconds.

    Args:
        attempts: How often a delivery is tried in all, the first time included.
        growth: How the wait between attempts grows: `exponential` doubles it each time, `linear` adds
            `first_retry` each time.
        first_retry: The wait after the first attempt.
        longest_retry: The longest wait that growth leads to.
        retry_delays: The waits themselves, instead of growth; the last one repeats.
        jitter: The share of a wait that chance adds or takes away, 0 to 1.
        longest_asked: The longest wait that a plugin's `Retry(after=…)` gets.
        timeout: How long the hook may take; None for the manifest's.
        max_age: An event this long in the log is given up on; None for no limit. An event's own `expirytime`
            counts in any case.
        in_flight: Deliveries at once; None for what the plugin's concurrency allows.
        rate: Deliveries a second in the long run; None for no limit.
        priority: Who goes first where subscriptions of one plugin wait for each other, the higher the sooner.
        order: `none`; `by-key`, events of one `partitionkey` one after the other; or `strict`, all of them.
        at_failure: With an order, whether those behind a failed delivery wait for it (`block`) or pass it while
            it waits for its next attempt (`set-aside`).
        dead_letters: Whether what is given up on is kept for a person to decide, or discarded.
        behind: Whether the log keeps what the subscription has not had for as long as it takes (`hold`), or drops
            it, loudly, when it is too old or the log is full (`skip`).
    """

    attempts: int = 8
    growth: Growth = "exponential"
    first_retry: float = 1.0
    longest_retry: float = 3600.0
    retry_delays: tuple[float, ...] = ()
    jitter: float = 0.2
    longest_asked: float = 86_400.0
    timeout: float | None = None
    max_age: float | None = None
    in_flight: int | None = None
    rate: float | None = None
    priority: int = 0
    order: Order = "none"
    at_failure: AtFailure = "block"
    dead_letters: DeadLetters = "keep"
    behind: Behind = "hold"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            DescriptionError: a value is outside its range; the sentence names it and the range.
        """
        for name, value, lowest, highest in (
            ("attempts", self.attempts, 1, MAX_ATTEMPTS),
            ("jitter", self.jitter, 0, 1),
            ("longest_asked", self.longest_asked, 0, MAX_WAIT),
            ("in_flight", self.in_flight, 1, MAX_IN_FLIGHT),
            ("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY),
        ):
            if value is not None and not lowest <= value <= highest:
                raise DescriptionError(f"{name} must be {lowest:g} to {highest:g}, not {_shown(value)}")
        for name, wait, longest in (
            ("timeout", self.timeout, MAX_TIMEOUT),
            ("max_age", self.max_age, math.inf),
            ("rate", self.rate, MAX_RATE),
            ("longest_retry", self.longest_retry, MAX_WAIT),
            *((f"retry_delays[{at}]", wait, MAX_WAIT) for at, wait in enumerate(self.retry_delays)),
        ):
            if wait is not None and not 0 < wait <= longest:
                raise DescriptionError(f"{name} must be above 0 and at most {longest:g}, not {_shown(wait)}")
        if not 0 < self.first_retry <= self.longest_retry:
            raise DescriptionError("first_retry must be above 0 and at most longest_retry")
        if len(self.retry_delays) > MAX_ATTEMPTS:
            raise DescriptionError(f"retry_delays has at most {MAX_ATTEMPTS} waits, not {len(self.retry_delays)}")
        for name, word, words in (
            ("growth", self.growth, get_args(Growth)),
            ("order", self.order, get_args(Order)),
            ("at_failure", self.at_failure, get_args(AtFailure)),
            ("dead_letters", self.dead_letters, get_args(DeadLetters)),
            ("behind", self.behind, get_args(Behind)),
        ):
            if word not in words:
                raise DescriptionError(f"{name} must be {' or '.join(map(repr, words))}, not {word!r}")

    @property
    def retry(self) -> RetryPolicy:
        """When attempts follow each other."""
        return RetryPolicy(
            attempts=self.attempts,
            first=self.first_retry,
            longest=self.longest_retry,
            jitter=self.jitter,
            growth=self.growth,
            delays=self.retry_delays,
        )


def _shown(value: float) -> str:
    try:
        return f"{value:g}"
    except OverflowError:
        return "a number of hundreds of digits"  # an integer that no float holds


class PolicyOptions(TypedDict, total=False):
    """The fields of `DeliveryPolicy` as keywords of a decorator."""

    attempts: int
    growth: Growth
    first_retry: float
    longest_retry: float
    retry_delays: tuple[float, ...]
    jitter: float
    longest_asked: float
    timeout: float | None
    max_age: float | None
    in_flight: int | None
    rate: float | None
    priority: int
    order: Order
    at_failure: AtFailure
    dead_letters: DeadLetters
    behind: Behind
