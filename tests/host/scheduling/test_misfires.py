"""What becomes of instants that were missed, and of those that jitter holds back."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.scheduling.misfires import Reason, came_due
from host.scheduling.rules import dispatch_at, instants
from host.scheduling.spans import MAX_COUNTED, span
from plugin_sdk.schedule import Schedule

DAY = 86_400

# Given an hourly schedule that was down for three days: what fires when the host is back ten minutes past the hour.
THREE_DAYS = [
    ("skip", {"misfire": "skip"}, [], [("skipped", "misfire skip", 72)]),
    (
        "skip, the last one within grace",
        {"misfire": "skip", "grace": 900},
        ["12:00:00"],
        [("skipped", "misfire skip", 71), ("fired", "", 1)],
    ),
    (
        "once",
        {"misfire": "once"},
        ["13:00:00"],
        [("fired", "missed beyond grace", 1), ("skipped", "misfire once", 71)],
    ),
    (
        "all",
        {"misfire": "all", "misfire_limit": 100},
        [f"{hour % 24:02}:00:00" for hour in range(13, 85)],
        [("fired", "missed beyond grace", 1)] * 72,
    ),
    (
        "all, the newest three",
        {"misfire": "all", "misfire_limit": 3},
        ["10:00:00", "11:00:00", "12:00:00"],
        [("skipped", "misfire limit", 69), *[("fired", "missed beyond grace", 1)] * 3],
    ),
    (
        "all, of which the last is within grace",
        {"misfire": "all", "misfire_limit": 2, "grace": 900},
        ["11:00:00", "12:00:00"],
        [("skipped", "misfire limit", 70), ("fired", "missed beyond grace", 1), ("fired", "", 1)],
    ),
]


@pytest.mark.parametrize("rule", [{"every": 3600}, {"cron": "0 * * * *"}], ids=["interval", "cron"])
@pytest.mark.parametrize(
    ("policies", "fired", "history"), [case[1:] for case in THREE_DAYS], ids=[case[0] for case in THREE_DAYS]
)
async def test_a_machine_that_slept_for_three_days_wakes_by_the_misfire_policy(world, rule, policies, fired, history):
    await world.adopt(Schedule(name="tick", **rule, **policies))
    await world.pass_(3 * DAY + 600)
    assert world.due() == fired
    assert await world.outcomes() == history
    record = await world.record()
    assert record.next_due == world.clock.now().timestamp() + 3000


async def test_a_skipped_run_of_instants_is_one_row_with_its_ends_and_its_lateness(world, every):
    await world.adopt(every(3600, misfire="skip"))
    await world.pass_(3 * DAY + 600)
    (row,) = await world.runs()
    assert (row.due, row.last_due) == ("2026-01-05T13:00:00.000Z", "2026-01-08T12:00:00.000Z")
    assert row.lateness == 3 * DAY + 600 - 3600
    assert row.event_id is None


GRACE = [
    ("on time", 0, "fired", ""),
    ("a little late", 59.9, "fired", ""),
    ("as late as allowed", 60, "fired", ""),
    ("too late", 60.1, "skipped", "misfire skip"),
]


@pytest.mark.parametrize(("late", "outcome", "reason"), [case[1:] for case in GRACE], ids=[case[0] for case in GRACE])
async def test_a_firing_is_missed_only_beyond_its_grace(world, every, late, outcome, reason):
    await world.adopt(every(3600, misfire="skip", grace=60))
    await world.pass_(3600 + late)
    assert await world.outcomes() == [(outcome, reason, 1)]


async def test_without_grace_the_instant_itself_is_still_in_time(world, every):
    await world.adopt(every(60, misfire="skip", grace=0))
    await world.pass_(120, every=60)
    assert world.due() == ["12:01:00", "12:02:00"]


async def test_what_a_short_stall_held_up_fires_each_within_grace_and_limit(world, every):
    await world.adopt(every(1, misfire_limit=5))
    await world.pass_(12)
    assert world.due() == ["12:00:08", "12:00:09", "12:00:10", "12:00:11", "12:00:12"]
    assert (await world.outcomes())[0] == ("skipped", "misfire limit", 7)


async def test_one_instant_that_was_missed_fires_once_or_never_as_its_policy_says(world):
    at = (world.clock.now() + timedelta(hours=1)).isoformat()
    await world.adopt(Schedule(name="tick", at=at), Schedule(name="never", at=at, misfire="skip"))
    await world.pass_(DAY)
    assert await world.outcomes() == [("fired", "missed beyond grace", 1)]
    assert await world.outcomes("clock/never") == [("skipped", "misfire skip", 1)]
    assert (await world.record()).next_due is None


async def test_what_was_missed_while_its_plugin_did_not_run_says_so(world, every):
    await world.adopt(every(3600, misfire="skip"))
    await world.scheduler.suspend("clock")
    await world.pass_(DAY)
    assert world.due() == []
    await world.adopt(every(3600, misfire="skip"))
    await world.look()
    assert await world.outcomes() == [("skipped", "suspended", 23), ("fired", "", 1)]


async def test_a_year_of_seconds_is_one_row_and_one_firing(world, every, cron):
    await world.adopt(every(1), cron("* * * * * *", name="cron"))
    await world.pass_(365 * DAY)
    assert await world.outcomes() == [("fired", "missed beyond grace", 1), ("skipped", "misfire once", 365 * DAY - 1)]
    assert await world.outcomes("clock/cron") == [
        ("fired", "missed beyond grace", 1),
        ("skipped", "misfire once", MAX_COUNTED),
    ]
    assert (await world.runs("clock/cron"))[-1].last_due == "2027-01-05T12:00:00.000Z"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["* * * * * *", "*/7 * * * *", "0 */3 * * *", "* * 1 1 *", "30 8 * * mon"]),
    st.integers(1, 400 * DAY),
    st.integers(1, 40),
)
def test_of_a_long_span_the_newest_are_found_without_walking_all_of_it(rule, length, newest):
    schedule = Schedule(name="tick", cron=rule, timezone="America/New_York")
    begin = 1_767_225_600.0
    first = next(instants(schedule, begin, anchor=0))
    found = span(schedule, first, begin + length, anchor=0, newest=newest)
    if first > begin + length:
        assert found is None
        return
    named = found.newest[-newest:]
    assert len(named) == min(newest, found.count)
    following = instants(schedule, named[0] - 1, anchor=0)
    assert tuple(next(following) for _ in named) == named
    assert next(following) > begin + length


@given(st.floats(1, 5000), st.floats(0, 1e6), st.integers(1, 30), st.floats(0, 1e5))
def test_of_an_interval_every_instant_is_counted_and_the_newest_are_named(every, length, newest, off_the_grid):
    schedule = Schedule(name="tick", every=every)
    first, anchor = 1_767_225_600.0 + off_the_grid, 1_767_000_000.0
    walked = [first]
    for one in instants(schedule, first, anchor=anchor):
        if one > first + length or len(walked) > 3000:
            break
        walked.append(one)
    found = span(schedule, first, walked[-1], anchor=anchor, newest=newest)
    assert found.count == len(walked)
    assert list(found.newest[-newest:]) == walked[-newest:]


@settings(deadline=None)
@given(
    st.sampled_from([{"every": 60}, {"every": 7.5}, {"cron": "*/2 * * * *"}, {"cron": "0 3 * * *"}]),
    st.sampled_from(["skip", "once", "all"]),
    st.integers(1, 50),
    st.floats(0, 3600),
    st.sampled_from([0, 30, 600]),
    st.floats(0, 2 * DAY),
)
def test_every_instant_up_to_now_fires_or_is_counted_and_the_next_one_is_behind_them(
    rule, misfire, limit, grace, jitter, late
):
    schedule = Schedule(name="tick", misfire=misfire, misfire_limit=limit, grace=grace, jitter=jitter, **rule)
    first = next(instants(schedule, 1_767_225_600.0, anchor=1_767_225_600.0))
    came = came_due("p/tick", schedule, first, first + late, anchor=1_767_225_600.0, adopted_at=None)
    if came is None:
        assert dispatch_at("p/tick", first, jitter) > first + late
        return
    passed = []
    for one in instants(schedule, first - 1, anchor=1_767_225_600.0):
        if one > came.seen or len(passed) > MAX_COUNTED:
            break
        passed.append(one)
    decided = len(came.fire) + sum(one.count for one in came.skipped)
    assert decided == len(passed) or decided >= MAX_COUNTED
    assert len(came.fire) <= max(1, limit)
    assert came.next_due > came.seen
    assert all(dispatch_at("p/tick", one.due, jitter) <= first + late for one in came.fire)
    late_ones = [one for one in came.fire if one.reason is Reason.LATE]
    assert misfire != "skip" or not late_ones


async def test_jitter_holds_the_dispatch_back_and_leaves_the_instant_as_it_is(world, every):
    await world.adopt(every(3600, jitter=600))
    held = dispatch_at("clock/tick", world.clock.now().timestamp() + 3600, 600) - world.clock.now().timestamp() - 3600
    assert 0 < held < 600
    await world.pass_(3600 + held - 1)
    assert world.due() == []
    await world.pass_(1.001)
    assert world.due() == ["13:00:00"]
    (row,) = await world.runs()
    assert row.lateness < 0.01


async def test_jitter_longer_than_the_interval_loses_no_instant(world, every):
    await world.adopt(every(60, jitter=600, grace=0, misfire="skip"))
    await world.pass_(7200, every=5)
    due = world.due()
    assert due == sorted(due)
    assert len(due) >= 110
    assert {outcome for outcome, _, _ in await world.outcomes()} == {"fired"}
