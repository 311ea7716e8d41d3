"""Policies that cannot be meant are refused where they are written, not when a breaker has to open."""

import math
import time

import pytest

from plugin_sdk.resilience import BreakerPolicy, Bulkhead, RetryPolicy, TokenBucket

NUMBERS = [math.nan, math.inf, -math.inf, -1, "5", None, True]
WRONG = [
    *(
        (BreakerPolicy, {name: value})
        for name in ("consecutive_failures", "minimum_calls", "probes")
        for value in (0, *NUMBERS)
    ),
    *(
        (BreakerPolicy, {name: value})
        for name in ("window", "slow_call", "open_for", "longest_open", "half_open_for")
        for value in (0, *NUMBERS)
    ),
    *(
        (BreakerPolicy, {name: value})
        for name in ("failure_rate", "slow_call_rate")
        for value in (0, 50, 1.01, *NUMBERS)
    ),
    *((BreakerPolicy, {"jitter": value}) for value in (1.01, *NUMBERS)),
    *((RetryPolicy, {"attempts": value}) for value in (0, *NUMBERS)),
    *((RetryPolicy, {name: value}) for name in ("first", "longest") for value in NUMBERS),
    *((RetryPolicy, {"factor": value}) for value in (0.5, *NUMBERS)),
    *((RetryPolicy, {"jitter": value}) for value in (2, *NUMBERS)),
    *((RetryPolicy, {"delays": (1.0, value)}) for value in NUMBERS),
    (RetryPolicy, {"growth": "quadratic"}),
    *((Bulkhead, {"limit": value}) for value in (0, *NUMBERS)),
    *((TokenBucket, {"rate": value, "burst": 1.0, "now": time.monotonic}) for value in (0, *NUMBERS)),
    *((TokenBucket, {"rate": 1.0, "burst": value, "now": time.monotonic}) for value in NUMBERS),
]


@pytest.mark.parametrize(
    ("kind", "fields"), WRONG, ids=lambda value: getattr(value, "__name__", None) or str(value)[:60]
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_name(kind, fields):
    with pytest.raises(ValueError, match="|".join(fields)):
        kind(**fields)


def test_what_is_meant_is_taken():
    BreakerPolicy(consecutive_failures=1, minimum_calls=1, failure_rate=1, slow_call_rate=0.001, probes=1, jitter=0)
    RetryPolicy(attempts=1, first=0, longest=0, factor=1, jitter=1, growth="linear", delays=(0, 1.5))
    assert Bulkhead(1).try_acquire()
    assert TokenBucket(0.001, 1.0, time.monotonic).take()
