import pytest

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
