import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_sdk.resilience import Breaker, BreakerPolicy, BreakerState, IllegalTransitionError, RetryPolicy
from plugin_sdk.testing import FakeClock


def breaker(clock=None, **policy):
    return Breaker(BreakerPolicy(**policy), clock=clock or FakeClock())


def fail(one, times):
    for _ in range(times):
        one.failure(one.try_acquire(), 0.01, "boom")


def test_five_failures_in_a_row_open_it_and_four_do_not():
    one = breaker()
    fail(one, 4)
    assert one.state is BreakerState.CLOSED
    fail(one, 1)
    assert one.state is BreakerState.OPEN
    assert one.reason == "5 failures in a row, the last: boom"
    assert one.try_acquire() is None


def test_a_success_between_failures_starts_the_row_anew():
    one = breaker(minimum_calls=1000)
    for _ in range(10):
        fail(one, 4)
        one.success(one.try_acquire(), 0.01)
    assert one.state is BreakerState.CLOSED


def test_half_of_at_least_ten_calls_failing_within_the_window_opens_it():
    clock = FakeClock()
    one = breaker(clock, consecutive_failures=100)
    for number in range(9):
        one.success(one.try_acquire(), 0) if number % 2 else fail(one, 1)
    assert one.state is BreakerState.CLOSED
    fail(one, 1)
    assert one.state is BreakerState.OPEN


def test_calls_that_left_the_window_count_no_more():
    clock = FakeClock()
    one = breaker(clock, consecutive_failures=100)
    fail(one, 9)
    clock.advance(11)
    fail(one, 1)
    assert one.state is BreakerState.CLOSED
    assert one.snapshot().calls == 1


def test_slow_calls_open_it_although_none_failed():
    one = breaker(slow_call=1.0, slow_call_rate=1.0)
    for _ in range(10):
        one.success(one.try_acquire(), 1.5)
    assert one.state is BreakerState.OPEN
    assert "took over 1 s" in one.reason


def test_half_open_admits_exactly_its_probes_and_closes_when_they_go_well():
    clock = FakeClock()
    one = breaker(clock)
    fail(one, 5)
    clock.advance(60)
    permits = [one.try_acquire() for _ in range(50)]
    assert sum(permit is not None for permit in permits) == 3
    assert one.state is BreakerState.HALF_OPEN
    for permit in permits[:3]:
        one.success(permit, 0.01)
    assert one.state is BreakerState.CLOSED


def test_the_open_time_doubles_each_time_that_probes_fail_and_is_bounded():
    clock = FakeClock()
    one = breaker(clock)
    fail(one, 5)
    waits = []
    for _ in range(6):
        waits.append(one.wait_hint())
        clock.advance(one.wait_hint())
        for permit in [one.try_acquire() for _ in range(3)]:
            one.failure(permit, 0.01, "still")
    assert waits == [60, 120, 240, 480, 600, 600]


def test_a_cancelled_probe_gives_its_permit_back():
    clock = FakeClock()
    one = breaker(clock)
    fail(one, 5)
    clock.advance(60)
    permits = [one.try_acquire() for _ in range(3)]
    assert one.try_acquire() is None
    one.ignore(permits[0])
    assert one.try_acquire() is not None


def test_probes_that_never_end_do_not_leave_it_half_open():
    clock = FakeClock()
    one = breaker(clock, half_open_for=30)
    fail(one, 5)
    clock.advance(60)
    one.try_acquire()
    clock.advance(30)
    assert one.try_acquire() is None
    assert one.state is BreakerState.OPEN


def test_a_half_open_breaker_that_nobody_calls_closes_with_its_probes_however_rare_they_are():
    clock = FakeClock()
    one = breaker(clock, half_open_for=30)
    fail(one, 5)
    clock.advance(60)
    for _ in range(3):
        one.success(one.try_acquire(), 0.01)
        clock.advance(3600)
    assert one.state is BreakerState.CLOSED


def test_a_late_result_from_before_it_opened_changes_nothing():
    clock = FakeClock()
    one = breaker(clock)
    late = one.try_acquire()
    fail(one, 5)
    clock.advance(60)
    one.try_acquire()
    one.failure(late, 70, "late")
    assert one.state is BreakerState.HALF_OPEN


def test_forced_open_lets_nothing_through_until_it_is_released():
    clock = FakeClock()
    one = breaker(clock)
    one.force_open("by hand")
    clock.advance(10_000)
    assert one.try_acquire() is None
    one.auto("by hand")
    assert one.state is BreakerState.CLOSED


def test_disabled_lets_everything_through_and_counts_nothing():
    one = breaker()
    one.disable("by hand")
    fail(one, 100)
    assert one.state is BreakerState.DISABLED
    assert one.snapshot().calls == 0


def test_an_illegal_transition_is_an_error():
    one = breaker()
    one.force_open("by hand")
    with pytest.raises(IllegalTransitionError):
        one._go(BreakerState.HALF_OPEN, "nonsense")


def test_listeners_hear_each_change_with_its_reason():
    heard = []
    one = breaker()
    one.listen(lambda old, new, reason: heard.append((old.value, new.value, reason)))
    fail(one, 5)
    assert heard == [("closed", "open", "5 failures in a row, the last: boom")]


@given(st.lists(st.sampled_from(["acquire", "good", "bad", "ignore", "tick", "minute"]), max_size=200))
def test_whatever_happens_it_never_lets_more_probes_through_than_it_has(steps):
    """Given any sequence of calls, outcomes and waits, an open breaker admits nothing and a half-open one
    never has more probes out than its policy says."""
    clock = FakeClock()
    one = breaker(clock)
    out = []
    for step in steps:
        if step == "acquire":
            before = one.state
            permit = one.try_acquire()
            if permit is not None:
                assert before is not BreakerState.OPEN or one.state is BreakerState.HALF_OPEN
                out.append((permit, one.state))
        elif step in {"good", "bad", "ignore"} and out:
            permit, _ = out.pop(0)
            if step == "good":
                one.success(permit, 0.01)
            elif step == "bad":
                one.failure(permit, 0.01, "x")
            else:
                one.ignore(permit)
        elif step == "tick":
            clock.advance(1)
        elif step == "minute":
            clock.advance(61)
        probes = [permit for permit, state in out if state is BreakerState.HALF_OPEN and permit == one._round]
        assert len(probes) <= 3


@pytest.mark.parametrize(("attempt", "wait"), [(1, 1), (2, 2), (3, 4), (10, 512), (13, 3600), (500, 3600)])
def test_retries_wait_twice_as_long_each_time_up_to_the_longest(attempt, wait):
    assert RetryPolicy().delay(attempt) == wait


@given(st.integers(1, 200), st.integers())
def test_jitter_keeps_a_wait_within_a_fifth_of_its_rule_and_below_the_longest(attempt, seed):
    policy = RetryPolicy()
    rule = policy.delay(attempt)
    wait = policy.delay(attempt, rng=random.Random(seed))
    assert 0.8 * rule <= wait <= min(1.2 * rule, policy.longest)
