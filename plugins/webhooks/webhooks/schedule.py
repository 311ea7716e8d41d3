"""When a message is tried again, and when an endpoint is given up: pure, over counts and times.

The schedule is the example of Standard Webhooks 1.0.0; throttling, `Retry-After` and giving up follow Svix.
"""

from __future__ import annotations

import math
import random
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

HOUR: Final = 3600.0
SCHEDULE: Final = (0.0, 5.0, 300.0, 0.5 * HOUR, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
"""Seconds before each attempt; as many attempts are made."""
JITTER: Final = 0.2
THROTTLED: Final = 60.0
"""Seconds at least after a timeout or a 429."""
FAILING_AT: Final = 4
"""The failure of a message at which people are told."""
GIVE_UP_AFTER: Final = 120 * HOUR
"""An endpoint that has failed for so long is disabled when one of its messages has used up its attempts."""
FORGIVE_AFTER: Final = 240 * HOUR
"""The first failure of an endpoint is forgotten then: with so few messages it says nothing about now."""


def wait_after(
    failures: int, *, throttled: bool = False, retry_after: float | None = None, rng: random.Random
) -> float | None:
    """Seconds until the next attempt of a message that has failed so often; None where there is none.

    Args:
        failures: 1 or more.
        throttled: The last failure was a timeout or a 429.
        retry_after: What the endpoint asked for, in seconds; it gets at least what the schedule says, at most twice.
        rng: For the jitter.
    """
    if failures >= len(SCHEDULE):
        return None
    base = SCHEDULE[failures]
    least = THROTTLED if throttled else 0.0
    if retry_after is not None:
        base = max(base, least)
        return min(max(retry_after, base), 2 * base)
    return max(base * (1 + JITTER * (2 * rng.random() - 1)), least)


def parse_retry_after(text: str | None, now: float) -> float | None:
    """The seconds of a `Retry-After`, which has seconds or an HTTP date; None where it says nothing usable.

    Args:
        text: The header (RFC 9110, section 10.2.3); fractions of a second are taken, too.
        now: Seconds since the epoch.
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def failing_since(known: float | None, now: float) -> float:
    """Since when an endpoint fails that has failed again just now, in seconds since the epoch."""
    return now if known is None or now - known > FORGIVE_AFTER else known


def gives_up(since: float, now: float) -> bool:
    """Whether an endpoint that fails since then is disabled, now that a message has used up its attempts."""
    return now - since >= GIVE_UP_AFTER
