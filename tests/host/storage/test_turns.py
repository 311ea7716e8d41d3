from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.storage.turns import Turns


class Party:
    """Notes when it is its turn, and gives it back at once if it is told to."""

    def __init__(self, turns, *, gives=False):
        self.turns, self.gives, self.went = turns, gives, 0

    def go(self):
        self.went += 1
        if self.gives:
            self.turns.give(self)


@pytest.fixture
def turns():
    return Turns()


def test_whoever_has_the_turn_goes_on_while_nobody_waits(turns):
    one = Party(turns)
    assert turns.take(one)
    assert turns.take(one)


def test_whoever_waits_is_next_and_the_one_before_comes_after_it(turns):
    one, other = Party(turns), Party(turns)
    assert turns.take(one)
    assert not turns.take(other)
    assert not turns.take(one)
    turns.give(one)
    assert (one.went, other.went) == (0, 1)
    turns.give(other)
    assert (one.went, other.went) == (1, 1)


def test_a_turn_that_nobody_uses_goes_to_the_next(turns):
    one, idle, other = Party(turns), Party(turns, gives=True), Party(turns)
    turns.take(one)
    turns.take(idle)
    turns.take(other)
    turns.give(one)
    assert (idle.went, other.went) == (1, 1)
    assert not turns.take(idle)


def test_only_whoever_has_the_turn_can_give_it(turns):
    one, other = Party(turns), Party(turns)
    turns.take(one)
    turns.give(other)
    assert not turns.take(other)


def test_who_asks_twice_waits_once(turns):
    one, other = Party(turns), Party(turns, gives=True)
    turns.take(one)
    turns.take(other)
    turns.take(other)
    turns.give(one)
    assert other.went == 1
    assert turns.take(one)


def test_whoever_is_given_the_turn_may_use_it_although_others_wait(turns):
    one, other = Party(turns), Party(turns)
    turns.take(one)
    turns.take(other)
    turns.take(one)
    turns.give(one)
    assert turns.take(other)
    assert not turns.take(other)
    turns.give(other)
    assert turns.take(one)


class Busy:
    """Has work to do; a piece of it is under way until the test says that it is durable."""

    def __init__(self, turns, at_once):
        self.turns, self.at_once, self.work, self.under_way = turns, at_once, 0, 0

    def go(self):
        while self.work and self.under_way < self.at_once and self.turns.take(self):
            self.work -= 1
            self.under_way += 1
        if not self.under_way:
            self.turns.give(self)

    def durable(self):
        if self.under_way:
            self.under_way -= 1
            if not self.under_way:
                self.turns.give(self)
            self.go()


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["asks", "durable"])), max_size=60))
def test_whatever_the_order_nobody_waits_for_ever_and_only_one_writes(steps):
    """A law: never are two under way at once, and once all that is under way is durable, all work gets done."""
    turns = Turns()
    parties = Busy(turns, 1), Busy(turns, 4)
    for who, what in steps:
        if what == "asks":
            parties[who].work += 1
            parties[who].go()
        else:
            parties[who].durable()
        assert sum(party.under_way > 0 for party in parties) <= 1
    left = deque(range(4 * len(steps) + 4))
    while left and any(party.under_way or party.work for party in parties):
        left.popleft()
        for party in parties:
            party.durable()
    assert not any(party.work for party in parties), "somebody waits for ever"
