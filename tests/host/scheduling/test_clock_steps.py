"""What schedules do when the clock on the wall is set, or the machine slept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from host.observe.clock_watch import ClockWatch
from host.scheduling.adoption import reanchored
from host.scheduling.rules import next_due
from host.scheduling.schedule_store import ScheduleRecord
from plugin_sdk.schedule import Schedule
from plugin_sdk.testing import FakeClock

HOUR = 3600


@pytest.mark.parametrize(("step", "seen"), [(0, 0), (4.9, 0), (-4.9, 0), (5.1, 5.1), (-5.1, -5.1), (86_400, 86_400)])
def test_a_step_of_more_than_five_seconds_is_noticed_once(step, seen):
    clock = FakeClock()
    watch = ClockWatch(clock)
    clock.advance(30)
    clock.step(step)
    assert watch.step() == pytest.approx(seen)
    clock.advance(30)
    assert watch.step() == 0


async def test_a_step_is_logged(world):
    await world.look()
    world.clock.step(-HOUR)
    with capture_logs() as logged:
        await world.look()
        await world.look()
    assert logged == [{"event": "clock_stepped", "log_level": "warning", "step_seconds": -HOUR}]


async def test_a_step_forward_is_instants_missed(world, every, cron):
    await world.adopt(every(600), cron("*/10 * * * *", name="cron", misfire="skip"))
    await world.pass_(600)
    world.clock.step(HOUR)
    await world.look()
    assert await world.outcomes() == [
        ("fired", "", 1),
        ("fired", "missed beyond grace", 1),
        ("skipped", "misfire once", 5),
    ]
    assert await world.outcomes("clock/cron") == [("fired", "", 1), ("skipped", "misfire skip", 5), ("fired", "", 1)]


async def test_a_step_back_fires_no_cron_instant_twice(world, cron):
    await world.adopt(cron("*/10 * * * *"))
    await world.pass_(HOUR, every=60)
    before = world.due()
    world.clock.step(-HOUR)
    await world.pass_(HOUR + 300, every=60)
    assert world.due() == before
    await world.pass_(600, every=60)
    assert world.due() == [*before, "13:10:00"]


async def test_a_step_back_does_not_silence_an_interval_and_keeps_its_beat(world, every):
    await world.adopt(every(600))
    await world.pass_(HOUR + 200, every=100)
    assert len(world.events) == 6
    world.clock.step(-HOUR)
    await world.pass_(300, every=100)
    assert len(world.events) == 6
    await world.pass_(HOUR, every=100)
    assert len(world.events) == 12
    assert len({event.id for event in world.events}) == 12


async def test_an_interval_beats_through_many_steps_back(world, every):
    await world.adopt(every(600))
    for _ in range(5):
        await world.pass_(1200, every=600)
        world.clock.step(-1200)
        await world.look()
    await world.pass_(1)  # every step moves the beat by a millisecond
    assert len({event.id for event in world.events}) == len(world.events) == 10


async def test_a_step_back_while_the_host_was_down_does_not_silence_an_interval(world, every):
    await world.adopt(every(600))
    await world.pass_(HOUR, every=60)
    world.clock.step(-HOUR)
    await world.restart()
    await world.adopt(every(600))
    await world.pass_(600.01, every=60)
    assert len(world.events) == 7


async def test_resuming_after_a_step_back_brings_no_instant_back(world, cron):
    await world.adopt(cron("*/10 * * * *"))
    await world.pass_(HOUR, every=60)
    world.clock.step(-HOUR)
    await world.scheduler.pause("clock/tick")
    await world.scheduler.resume("clock/tick")
    await world.pass_(1800, every=60)
    assert len(world.events) == 6


async def test_a_start_that_is_far_away_is_no_step_back(world, every):
    await world.adopt(every(60, start="2026-01-06T00:00:00Z"))
    await world.look()
    world.clock.step(-HOUR)
    await world.look()
    assert (await world.record()).anchor == (await world.record()).next_due


@given(st.floats(1, 1e5), st.floats(6, 1e6), st.floats(0, 1, exclude_max=True))
def test_after_a_step_back_an_interval_is_due_within_one_interval_at_an_instant_it_never_had(every, step, phase):
    anchor, now = 1_767_225_600.0, 1_767_300_000.0
    schedule = Schedule(name="tick", every=every)
    due = next_due(schedule, now, anchor=anchor)
    record = ScheduleRecord("p/tick", "p", "tick", schedule, anchor, due, active=True, paused=False)
    found = reanchored(record, now - step, -step)
    if found is record:
        assert due <= now - step + every + 1
        return
    assert now - step < found.next_due <= now - step + every + 0.01
    offset = (found.next_due - anchor) % every
    assert min(offset, every - offset) > 0.0004
