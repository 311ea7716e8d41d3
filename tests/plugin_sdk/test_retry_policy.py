"""Laws of the waits between attempts."""

import random

from hypothesis import given
from hypothesis import strategies as st

from plugin_sdk.resilience import RetryPolicy

seconds = st.floats(0.001, 1e6, allow_nan=False)
attempts = st.integers(1, 200)
shares = st.floats(0, 1)
delays = st.lists(seconds, min_size=1, max_size=20).map(tuple)


@st.composite
def policies(draw, *, jitter=shares):
    first = draw(st.floats(0.001, 1000))
    return RetryPolicy(
        first=first,
        longest=draw(st.floats(first, 1e6)),
        factor=draw(st.floats(1, 10)),
        jitter=draw(jitter),
        growth=draw(st.sampled_from(["exponential", "linear"])),
        delays=draw(st.just(()) | delays),
    )


def bound(policy):
    return max(policy.delays) if policy.delays else policy.longest


@given(policies(), attempts, st.integers())
def test_no_wait_is_negative_or_longer_than_the_longest(policy, attempt, seed):
    assert 0 <= policy.delay(attempt, rng=random.Random(seed)) <= bound(policy)


@given(policies(), attempts, st.integers())
def test_chance_adds_or_takes_no_more_than_its_share(policy, attempt, seed):
    plain = policy.delay(attempt)
    wait = policy.delay(attempt, rng=random.Random(seed))
    assert plain * (1 - policy.jitter) * (1 - 1e-9) <= wait <= plain * (1 + policy.jitter) * (1 + 1e-9)


@given(policies(jitter=st.just(0.0)), attempts, st.integers())
def test_without_jitter_chance_changes_nothing(policy, attempt, seed):
    assert policy.delay(attempt, rng=random.Random(seed)) == policy.delay(attempt)


@given(policies().filter(lambda policy: not policy.delays), attempts)
def test_waits_that_grow_never_get_shorter(policy, attempt):
    assert policy.delay(attempt) <= policy.delay(attempt + 1)


@given(st.floats(0.01, 10), st.integers(1, 40))
def test_an_exponential_wait_doubles_and_a_linear_one_grows_by_the_first(first, attempt):
    doubling = RetryPolicy(first=first, longest=1e300)
    adding = RetryPolicy(first=first, longest=1e300, growth="linear")
    assert doubling.delay(attempt + 1) == 2 * doubling.delay(attempt)
    assert abs(adding.delay(attempt + 1) - adding.delay(attempt) - first) < 1e-9 * adding.delay(attempt + 1)
    assert doubling.delay(1) == adding.delay(1) == first


@given(delays, attempts)
def test_of_a_list_each_wait_is_taken_in_turn_and_the_last_repeats(waits, attempt):
    policy = RetryPolicy(delays=waits, first=7.0, longest=0.5)
    assert policy.delay(attempt) == waits[min(attempt, len(waits)) - 1]


@given(policies(), st.integers(-(10**6), 0) | st.integers(10**3, 10**12))
def test_attempts_far_outside_what_is_counted_have_a_wait_all_the_same(policy, attempt):
    assert 0 < policy.delay(attempt) <= bound(policy)


@given(st.integers())
def test_what_failed_together_does_not_come_back_together(seed):
    rng = random.Random(seed)
    policy = RetryPolicy(first=10.0, jitter=0.2)
    waits = {policy.delay(1, rng=rng) for _ in range(20)}
    assert len(waits) > 10
