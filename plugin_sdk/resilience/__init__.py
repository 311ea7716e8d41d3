"""Breaker, bulkhead, token bucket and retry policy: used by the host around hooks, and by plugins around their calls.

Everything here decides by a clock that is passed in, and holds no thread and no task of its own.
"""

from plugin_sdk.resilience.breaker import (
    Breaker,
    BreakerPolicy,
    BreakerSnapshot,
    BreakerState,
    IllegalTransitionError,
)
from plugin_sdk.resilience.bulkhead import Bulkhead
from plugin_sdk.resilience.retry_policy import Growth, RetryPolicy
from plugin_sdk.resilience.token_bucket import TokenBucket

__all__ = [
    "Breaker",
    "BreakerPolicy",
    "BreakerSnapshot",
    "BreakerState",
    "Bulkhead",
    "Growth",
    "IllegalTransitionError",
    "RetryPolicy",
    "TokenBucket",
]
