"""What may leave the log: who holds it, who does without, and what those lose."""

import asyncio
import itertools

import pytest
from delivery_rig import event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from host.routing import log_retention
from host.routing.event_log import EventQuery, LetterQuery, Outcome, Settlement
from host.routing.sqlite_log import SQLiteLog
from host.storage.database import Database
from plugin_sdk.testing import FakeClock

EVERYTHING = 1e12
ROOMY = 2**31


@pytest.fixture
async def database(tmp_path):
    opened = await Database.open(tmp_path / "busbar.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def log(database, clock):
    return await SQLiteLog.open(database, clock)


async def append(log, count, **more):
    await asyncio.gather(*(log.append(one, one.to_json()) for one in (event(n, **more) for n in range(1, count + 1))))
    return await log.read(0, count)


def retried(stored, subscription, *, at=1.0):
    return Settlement(subscription, "p", stored, 1, Outcome.RETRIED, 1.0, 0.1, "no", retry_at=at)


async def kept(log):
    return [stored.sequence for stored in await log.read(0, 1000)]


async def test_a_subscription_that_skips_is_moved_on_and_told_how_many_places_it_lost(log):
    await append(log, 10)
    await log.cursor("p/skips", start=3, holds=False)
    pruned = await log.prune(EVERYTHING, ROOMY)
    assert (pruned.events, pruned.held_by, dict(pruned.skipped)) == (10, (), {"p/skips": 7})
    assert await log.cursor("p/skips", start=0, holds=False) == 10


async def test_a_subscription_that_skips_loses_its_retries_with_their_events_and_each_is_counted(log):
    events = await append(log, 10)
    await log.cursor("p/skips", start=10, holds=False)
    await log.settle([retried(events[at], "p/skips") for at in (2, 4)], {}, {})
    pruned = await log.prune(EVERYTHING, ROOMY)
    assert (pruned.events, dict(pruned.skipped)) == (10, {"p/skips": 2})
    assert await log.waiting_retries("p/skips") == 0


async def test_a_retry_with_its_own_copy_of_the_event_is_kept_when_the_event_goes(log):
    events = await append(log, 3)
    for name, holds in (("p/skips", False), ("p/holds", True)):
        await log.cursor(name, start=3, holds=holds)
        await log.settle([replace(retried(events[0], name), outcome=Outcome.DEAD_LETTERED, retry_at=None)], {}, {})
    letters, _ = await log.dead_letters(LetterQuery(), 0, 9)
    await log.revive([letter.id for letter in letters])
    pruned = await log.prune(EVERYTHING, ROOMY)
    assert (pruned.events, pruned.held_by, dict(pruned.skipped)) == (3, (), {})
    for name in ("p/skips", "p/holds"):
        ((_, found),) = await log.due(name, EVERYTHING, 9)
        assert found.event.id == "1"


async def test_of_those_who_hold_the_one_furthest_behind_decides_and_is_named(log):
    await append(log, 10)
    for name, position in (("p/far", 2), ("p/near", 8), ("q/far", 2)):
        await log.cursor(name, start=position)
    await log.cursor("p/skips", start=0, holds=False)
    pruned = await log.prune(EVERYTHING, ROOMY)
    assert pruned.events == 2
    assert sorted(pruned.held_by) == ["p/far", "q/far"]
    assert dict(pruned.skipped) == {"p/skips": 2}
    assert await log.cursor("p/skips", start=0, holds=False) == 2
    assert await kept(log) == list(range(3, 11))


async def test_a_retry_of_one_who_holds_keeps_its_event_although_the_cursor_has_passed(log):
    events = await append(log, 10)
    await log.cursor("p/s", start=10)
    await log.settle([retried(events[5], "p/s")], {}, {})
    assert (await log.prune(EVERYTHING, ROOMY)).held_by == ("p/s",)
    assert await kept(log) == [6, 7, 8, 9, 10]


async def test_nobody_is_named_while_nothing_that_should_go_is_held(log, clock):
    await append(log, 10)
    await log.cursor("p/s", start=0)
    pruned = await log.prune(clock.now().timestamp() - 1, ROOMY)
    assert (pruned.events, pruned.held_by) == (0, ())


async def test_whoever_stops_skipping_holds_the_log_from_then_on(log):
    await append(log, 4)
    await log.cursor("p/s", start=1, holds=False)
    await log.cursor("p/s", start=0, holds=True)
    assert (await log.prune(EVERYTHING, ROOMY)).events == 1
    await log.cursor("p/s", start=0, holds=False)
    assert (await log.prune(EVERYTHING, ROOMY)).events == 3


async def test_beyond_the_budget_the_oldest_go_first_although_they_are_young(log):
    await append(log, 3000, data="x" * 500)
    used = await log.used_bytes()
    pruned = await log.prune(0.0, used - 300_000)
    assert 0 < pruned.events < 3000
    assert await log.used_bytes() <= used - 300_000
    assert (await log.read(0, 1))[0].sequence == pruned.events + 1


async def test_a_skipper_within_what_is_left_loses_nothing(log):
    await append(log, 3000, data="x" * 500)
    await log.cursor("p/skips", start=2999, holds=False)
    pruned = await log.prune(0.0, await log.used_bytes() - 300_000)
    assert pruned.events < 2999
    assert dict(pruned.skipped) == {}


async def test_an_event_that_is_appended_while_others_are_removed_stays(log, monkeypatch):
    monkeypatch.setattr(log_retention, "PRUNE_CHUNK", 10)
    await append(log, 100)
    late = event("late")
    await asyncio.gather(log.prune(EVERYTHING, ROOMY), log.append(late, late.to_json()))
    assert [stored.event.id for stored in await log.read(0, 9)] == ["late"]


async def test_places_are_never_given_out_again_and_the_log_is_searched_as_before(log, database, clock):
    await append(log, 5)
    await log.prune(EVERYTHING, 0)
    again = await SQLiteLog.open(database, clock)
    one = event("new")
    assert (await again.append(one, one.to_json())).sequence == 6
    found, total = await again.query(EventQuery(), 0, 9)
    assert ([stored.sequence for stored in found], total) == ([6], 1)


_numbers = itertools.count()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 25),
    st.lists(st.tuples(st.integers(0, 25), st.booleans(), st.sets(st.integers(1, 25), max_size=3)), max_size=4),
    st.integers(0, 25),
    st.integers(1, 7),
)
async def test_whatever_is_pruned_who_holds_has_everything_and_who_skips_is_told_of_every_loss(
    tmp_path, monkeypatch, count, subscriptions, young, chunk
):
    """Given cursors and retries anywhere, and the last `young` events not old enough, then all old events below
    the lowest thing held go, in chunks of whatever size, and nothing else does."""
    monkeypatch.setattr(log_retention, "PRUNE_CHUNK", chunk)
    database = await Database.open(tmp_path / f"{next(_numbers)}.db")
    try:
        clock = FakeClock()
        log = await SQLiteLog.open(database, clock)
        for number in range(1, count + 1):
            clock.advance(1)
            await log.append(event(number), event(number).to_json())
        stored = {one.sequence: one for one in await log.read(0, 100)}
        given_ = [
            (f"p/s{number}", min(position, count), holds, {at for at in pending if at <= min(position, count)})
            for number, (position, holds, pending) in enumerate(subscriptions)
        ]
        floor = count
        for name, position, holds, pending in given_:
            await log.cursor(name, start=position, holds=holds)
            await log.settle([retried(stored[at], name) for at in pending], {}, {})
            if holds:
                floor = min([floor, position, *(at - 1 for at in pending)])
        expected = min(max(0, count - young), floor)
        pruned = await log.prune(clock.now().timestamp() - young + 0.5, ROOMY)
        assert pruned.events == expected
        assert await kept(log) == list(range(expected + 1, count + 1))
        for name, position, holds, pending in given_:
            left = pending if holds else {at for at in pending if at > expected}
            lost = 0 if holds else max(0, expected - position) + len(pending - left)
            assert pruned.skipped.get(name, 0) == lost
            assert await log.cursor(name, start=0, holds=holds) == (position if holds else max(position, expected))
            assert await log.waiting_retries(name) == len(left)
    finally:
        await database.close()
