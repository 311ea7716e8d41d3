import uuid

import pytest

from host.identity import guesses
from host.identity.guesses import ALLOWED, MAX_ADDRESSES, WINDOW, Guesses, TooManyAttemptsError
from host.identity.peers import counted_as
from plugin_sdk.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def counted(clock):
    return Guesses(clock.monotonic)


def refused(counted, address, secret):
    try:
        counted.wrong(address, secret)
    except TooManyAttemptsError:
        return True
    return False


def guessed(counted, address="192.0.2.1"):
    """How many new tokens an address may send before it is slowed."""
    return next(number for number in range(10_000) if refused(counted, address, f"bbt_{uuid.uuid4()}"))


def test_an_address_that_sends_one_wrong_token_after_the_other_is_slowed(counted):
    assert guessed(counted) == ALLOWED
    with pytest.raises(TooManyAttemptsError) as slowed:
        counted.wrong("192.0.2.1", "bbt_x")
    assert (slowed.value.word, slowed.value.kind.value) == ("too_many_attempts", 429)
    assert slowed.value.retry_after == WINDOW / ALLOWED


def test_other_addresses_are_not_slowed_with_it(counted):
    guessed(counted)
    assert not refused(counted, "192.0.2.2", "bbt_x")


def test_whoever_waits_may_try_again(counted, clock):
    guessed(counted)
    clock.advance(WINDOW / ALLOWED + 0.001)
    assert not refused(counted, "192.0.2.1", "bbt_y")
    assert refused(counted, "192.0.2.1", "bbt_z")
    clock.advance(WINDOW)
    assert guessed(counted) == ALLOWED


def test_an_old_token_that_is_repeated_is_no_guess_until_it_is_a_flood(counted):
    answers = [refused(counted, "192.0.2.1", "bbt_old") for _ in range(ALLOWED * 12)]
    assert True not in answers[: ALLOWED * 9]
    assert answers[-1]


def test_a_text_that_no_header_can_hold_is_a_wrong_token_like_any_other(counted):
    assert not refused(counted, "192.0.2.1", "\udc80")


def test_what_is_kept_is_bounded_however_many_guess(counted):
    for number in range(MAX_ADDRESSES + 100):
        counted.wrong(f"2001:db8::{number:x}", "bbt_x")
    assert len(counted._addresses) == MAX_ADDRESSES
    for number in range(1000):
        refused(counted, "192.0.2.1", f"bbt_{number}")
    assert len(counted._addresses["192.0.2.1"].sent) == guesses.REMEMBERED


def test_every_wrong_token_is_counted(counted):
    for _ in range(ALLOWED * 2):
        refused(counted, "192.0.2.1", "bbt_x")
    ((family),) = counted.metrics()
    assert (family.name, family.samples[0].value) == ("busbar_wrong_tokens", ALLOWED * 2)


@pytest.mark.parametrize(
    ("remote", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::/64"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", "unknown"),
        (None, "unknown"),
        ("@", "unknown"),
    ],
)
def test_an_address_of_ipv6_counts_as_its_network(remote, group):
    assert counted_as(remote) == group
