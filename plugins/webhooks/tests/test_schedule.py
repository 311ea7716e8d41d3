"""When a message is tried again, and when an endpoint is given up."""

import random
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhooks.schedule import HOUR, SCHEDULE, failing_since, gives_up, parse_retry_after, wait_after

NOW = 1_767_225_600.0


class Middle(random.Random):
    """Chance that adds and takes away nothing."""

    def random(self):
        return 0.5


@pytest.mark.parametrize(
    ("failures", "wait"),
    [
        (1, 5),
        (2, 300),
        (3, 1800),
        (4, 7200),
        (5, 18_000),
        (6, 36_000),
        (7, 50_400),
        (8, 72_000),
        (9, 86_400),
        (10, None),
        (11, None),
    ],
)
def test_the_schedule_is_that_of_standard_webhooks(failures, wait):
    assert wait_after(failures, rng=Middle()) == wait


def test_all_attempts_together_take_a_little_over_three_days():
    assert sum(SCHEDULE) == pytest.approx(75.6 * HOUR, rel=0.001)


@pytest.mark.parametrize(
    ("failures", "throttled", "retry_after", "wait"),
    [
        (1, True, None, 60),
        (2, True, None, 300),
        (1, False, 7, 7),
        (1, False, 2, 5),
        (1, False, 100, 10),
        (1, True, 2, 60),
        (1, True, 90, 90),
        (1, True, 9999, 120),
        (2, True, 9999, 600),
        (10, True, 60, None),
    ],
)
def test_throttling_and_what_the_endpoint_asks_for_lengthen_a_wait_within_bounds(
    failures, throttled, retry_after, wait
):
    assert wait_after(failures, throttled=throttled, retry_after=retry_after, rng=Middle()) == wait


@given(st.integers(1, 9), st.booleans(), st.none() | st.floats(0, 1e12), st.randoms(use_true_random=False))
def test_a_wait_is_never_shorter_than_four_fifths_nor_longer_than_twice_the_schedule(failures, throttled, asked, rng):
    base = max(SCHEDULE[failures], 60 if throttled else 0)
    wait = wait_after(failures, throttled=throttled, retry_after=asked, rng=rng)
    assert 0.8 * base <= wait <= 2 * base or (throttled and wait == 60)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("120", 120),
        ("0", 0),
        ("1.5", 1.5),
        ("-5", 0),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        ("Thu, 01 Jan 2026 00:01:30", 90),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("Thu, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, seconds):
    assert parse_retry_after(text, NOW) == seconds


@given(st.text(max_size=60))
def test_no_retry_after_raises_anything(text):
    found = parse_retry_after(text, NOW)
    assert found is None or found >= 0


def test_an_endpoint_fails_since_its_first_failure_and_is_forgiven_after_ten_days():
    assert failing_since(None, NOW) == NOW
    assert failing_since(NOW - 240 * HOUR, NOW) == NOW - 240 * HOUR
    assert failing_since(NOW - 240 * HOUR - 1, NOW) == NOW


def test_an_endpoint_is_given_up_after_five_days():
    assert not gives_up(NOW - 120 * HOUR + 1, NOW)
    assert gives_up(NOW - 120 * HOUR, NOW)
