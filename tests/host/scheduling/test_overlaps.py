"""What becomes of a firing while an earlier one is not settled, as the log's cursors and retries say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from host.scheduling.misfires import Due
from host.scheduling.overlaps import LogOutcomes, admit
from plugin_sdk.schedule import Schedule


@pytest.fixture
async def followed(world):
    await world.follow()
    return world


async def test_allow_lets_firings_pile_up(followed, every):
    await followed.adopt(every(60))
    await followed.pass_(180, every=60)
    assert followed.due() == ["12:01:00", "12:02:00", "12:03:00"]


async def test_allow_skips_what_would_be_more_than_its_bound_until_one_is_settled(followed, every):
    await followed.adopt(every(60, max_running=2))
    await followed.pass_(240, every=60)
    assert await followed.outcomes() == [("fired", "", 1), ("fired", "", 1), ("skipped", "overlap", 2)]
    await followed.settle(followed.events[0])
    await followed.pass_(120, every=60)
    assert followed.due() == ["12:01:00", "12:02:00", "12:05:00"]


async def test_skip_leaves_out_what_comes_due_while_one_runs(followed, every):
    await followed.adopt(every(60, overlap="skip"))
    await followed.pass_(240, every=60)
    assert followed.due() == ["12:01:00"]
    await followed.settle()
    await followed.pass_(60)
    assert followed.due() == ["12:01:00", "12:05:00"]
    rows = await followed.runs()
    assert [(one.outcome, one.reason, one.count) for one in rows] == [
        ("fired", "", 1),
        ("skipped", "overlap", 3),
        ("fired", "", 1),
    ]
    assert (rows[1].due[11:16], rows[1].last_due[11:16]) == ("12:02", "12:04")


async def test_a_firing_that_waits_to_be_tried_again_still_runs(followed, every):
    await followed.adopt(every(60, overlap="skip"))
    await followed.pass_(60)
    await followed.set_aside(followed.events[0])
    await followed.settle()
    await followed.pass_(60)
    assert followed.due() == ["12:01:00"]


async def test_queue_keeps_one_waiting_and_fires_it_when_the_earlier_one_is_settled(followed, every):
    await followed.adopt(every(60, overlap="queue"))
    await followed.pass_(240, every=60)
    assert followed.due() == ["12:01:00"]
    record = await followed.record()
    assert record.queued_due == followed.clock.now().timestamp() - 120
    assert await followed.look() == 1.0, "what waits is looked after every second"
    await followed.settle()
    await followed.pass_(1)
    assert followed.due() == ["12:01:00", "12:02:00"]
    assert (await followed.record()).queued_due is None
    assert (await followed.outcomes())[-2:] == [("skipped", "overlap", 2), ("fired", "queued", 1)]
    assert (await followed.runs())[-1].lateness == 121


async def test_a_waiting_firing_survives_a_restart(followed, every):
    await followed.adopt(every(60, overlap="queue"))
    await followed.pass_(120, every=60)
    await followed.restart()
    await followed.adopt(every(60, overlap="queue"))
    await followed.settle()
    await followed.pass_(1)
    assert followed.due() == ["12:01:00", "12:02:00"]


async def test_pausing_gives_up_the_firing_that_waits(followed, every):
    await followed.adopt(every(60, overlap="queue"))
    await followed.pass_(120, every=60)
    await followed.scheduler.pause("clock/tick")
    await followed.settle()
    await followed.pass_(1)
    assert await followed.outcomes() == [("fired", "", 1), ("skipped", "paused", 1)]


async def test_another_rule_gives_up_the_firing_that_waits(followed, every):
    await followed.adopt(every(60, overlap="queue"))
    await followed.pass_(120, every=60)
    await followed.adopt(every(90, overlap="queue"))
    assert await followed.outcomes() == [("fired", "", 1), ("skipped", "rule changed", 1)]


async def test_cancel_previous_cancels_what_runs_and_fires(followed, every):
    await followed.adopt(every(60, overlap="cancel-previous"))
    await followed.pass_(60)
    (stored,) = await followed.log.find(followed.events[0].id)
    assert followed.cancels.asked == []
    await followed.pass_(60)
    assert followed.cancels.asked == [("clock", stored.sequence)]
    assert followed.due() == ["12:01:00", "12:02:00"]


async def test_cancel_previous_leaves_alone_what_is_settled(followed, every):
    await followed.adopt(every(60, overlap="cancel-previous"))
    await followed.pass_(60)
    await followed.settle()
    await followed.pass_(60)
    assert followed.cancels.asked == []


async def test_what_cannot_be_cancelled_is_logged_and_the_new_one_fires(followed, every):
    followed.cancels.answer = False
    await followed.adopt(every(60, overlap="cancel-previous"))
    with capture_logs() as logged:
        await followed.pass_(120, every=60)
    assert followed.due() == ["12:01:00", "12:02:00"]
    assert [line["event"] for line in logged] == ["firing_not_cancelled"]


async def test_a_run_by_hand_overlaps_whatever_the_policy_and_counts_as_running(followed, every):
    await followed.adopt(every(60, overlap="skip"))
    await followed.pass_(60)
    await followed.scheduler.run_now("clock/tick")
    assert len(followed.events) == 2
    await followed.settle(followed.events[0])
    await followed.pass_(60)
    assert await followed.outcomes() == [("fired", "", 1), ("fired", "by hand", 1), ("skipped", "overlap", 1)]


async def test_what_was_missed_and_would_overlap_itself_fires_once(followed, every):
    await followed.adopt(every(3600, misfire="all", overlap="skip"))
    await followed.pass_(4 * 3600)
    assert followed.due() == ["13:00:00"]
    assert await followed.outcomes() == [("fired", "missed beyond grace", 1), ("skipped", "overlap", 3)]


async def test_other_plugins_do_not_hold_a_schedule_up(followed, every):
    await followed.follow("other")
    await followed.adopt(every(60, overlap="skip"))
    await followed.adopt(every(60, overlap="skip"), plugin="other")
    await followed.pass_(60)
    await followed.settle(plugin="other")
    await followed.pass_(60)
    assert [one[2] for one in await followed.outcomes("other/tick")] == [1, 1]
    assert await followed.outcomes() == [("fired", "", 1), ("skipped", "overlap", 1)]


async def test_a_firing_that_no_subscription_follows_is_settled(world):
    await world.adopt(Schedule(name="tick", every=60, overlap="skip"))
    await world.pass_(120, every=60)
    assert world.due() == ["12:01:00", "12:02:00"]


async def test_outcomes_are_read_from_cursor_settled_ahead_and_retries(followed, every):
    await followed.adopt(every(60))
    await followed.pass_(240, every=60)
    sequences = [(await followed.log.find(event.id))[0].sequence for event in followed.events]
    outcomes = LogOutcomes(followed.database)
    assert await outcomes.unsettled("clock", sequences) == set(sequences)
    await followed.settle(followed.events[2])
    assert await outcomes.unsettled("clock", sequences) == {sequences[0], sequences[1], sequences[3]}
    await followed.settle(followed.events[0], followed.events[1])
    assert await outcomes.unsettled("clock", sequences) == {sequences[3]}
    await followed.set_aside(followed.events[0])
    assert await outcomes.unsettled("clock", sequences) == {sequences[0], sequences[3]}
    assert await outcomes.unsettled("clock", sequences[1:2]) == set()
    assert await outcomes.unsettled("clock", ()) == set()


@given(
    st.sampled_from(["allow", "skip", "queue", "cancel-previous"]),
    st.integers(1, 5),
    st.integers(0, 6),
    st.booleans(),
    st.integers(0, 6),
)
def test_every_policy_decides_on_every_instant_and_keeps_its_bound(overlap, most, running, waits, came):
    schedule = Schedule(name="tick", every=1, overlap=overlap, max_running=most)
    queued = 0.5 if waits else None
    found = admit(schedule, running, queued, [Due(float(n + 1)) for n in range(came)])
    decided = len(found.fire) + (found.queued is not None) + sum(one.count for one in found.skipped)
    assert decided == came + waits
    bound = {"allow": max(0, most - running), "skip": int(not running), "queue": int(not running)}.get(overlap, 1)
    assert len(found.fire) <= bound
    assert found.queued is None or overlap == "queue"
    assert found.cancel == (overlap == "cancel-previous" and running > 0 and came + waits > 0)
