import pytest
from delivery_rig import event, keyed
from hypothesis import given
from hypothesis import strategies as st

from host.routing.event_log import StoredEvent
from host.routing.lanes import Lanes


def stored(sequence, key=None):
    one = event(sequence) if key is None else keyed(sequence, key)
    return StoredEvent(sequence, one, one.to_json(), 0.0)


@pytest.mark.parametrize(
    ("order", "key", "lane"),
    [
        ("none", "k", None),
        ("none", None, None),
        ("by-key", "k", "k"),
        ("by-key", None, None),
        ("by-key", "", ""),
        ("strict", "k", ""),
        ("strict", None, ""),
    ],
)
def test_an_event_goes_into_the_lane_of_its_order(order, key, lane):
    assert Lanes(order, "block").lane(stored(1, key).event) == lane


@pytest.mark.parametrize(
    ("order", "at_failure", "ordered", "blocks"),
    [
        ("none", "block", False, False),
        ("none", "set-aside", False, False),
        ("by-key", "block", True, True),
        ("by-key", "set-aside", True, False),
        ("strict", "block", True, True),
        ("strict", "set-aside", True, False),
    ],
)
def test_those_behind_a_failure_wait_where_order_and_policy_say_so(order, at_failure, ordered, blocks):
    lanes = Lanes(order, at_failure)
    assert (lanes.ordered, lanes.blocks) == (ordered, blocks)


def test_of_one_lane_one_is_under_way_and_the_others_follow_in_order():
    lanes = Lanes("strict", "block")
    one, two, three = (stored(sequence) for sequence in (1, 2, 3))
    assert [lanes.enter(each) for each in (one, two, three)] == [True, False, False]
    assert lanes.parked == 2
    assert lanes.leave(one) is two
    assert lanes.leave(two) is three
    assert lanes.leave(three) is None
    assert lanes.parked == 0
    assert lanes.enter(stored(4))


def test_lanes_do_not_wait_for_each_other_and_events_without_a_key_for_nobody():
    lanes = Lanes("by-key", "block")
    assert lanes.enter(stored(1, "a"))
    assert lanes.enter(stored(2, "b"))
    assert lanes.enter(stored(3))
    assert lanes.enter(stored(4))
    assert not lanes.enter(stored(5, "a"))
    assert lanes.leave(stored(3)) is None


def test_a_lane_waits_for_every_delivery_that_failed_before_a_restart():
    lanes = Lanes("by-key", "block")
    failed = [stored(1, "a"), stored(2, "a"), stored(3)]
    for each in failed:
        lanes.occupy(each)
    behind = stored(9, "a")
    assert not lanes.enter(behind)
    assert lanes.leave(failed[0]) is None
    assert lanes.leave(failed[1]) is behind


def test_whoever_leaves_twice_or_was_never_there_lets_nobody_in():
    lanes = Lanes("strict", "set-aside")
    one, two = stored(1), stored(2)
    lanes.enter(one)
    lanes.enter(two)
    assert lanes.leave(stored(7)) is None
    assert lanes.leave(one) is two
    assert lanes.leave(one) is None  # its retry is settled later
    assert lanes.parked == 0


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=30), st.data())
def test_in_any_order_of_outcomes_each_lane_is_delivered_in_its_order_and_all_are_delivered(keys, data):
    lanes = Lanes("by-key", "block")
    events = [stored(sequence, key) for sequence, key in enumerate(keys, 1)]
    running = [each for each in events if lanes.enter(each)]
    delivered = []
    while running:
        one = running.pop(data.draw(st.integers(0, len(running) - 1)))
        delivered.append(one)
        following = lanes.leave(one)
        if following is not None:
            running.append(following)
    assert sorted(one.sequence for one in delivered) == [one.sequence for one in events]
    for key in ("a", "b"):
        lane = [one.sequence for one in delivered if one.event.extensions.get("partitionkey") == key]
        assert lane == sorted(lane)
    assert lanes.parked == 0
    assert (lanes._busy, lanes._parked) == ({}, {})
