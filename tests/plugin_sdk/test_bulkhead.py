"""Places for calls: how many there are, who is served first, and that none is ever lost."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_sdk.resilience import Bulkhead


class Model:
    """The same by brute force: a list of who waits, searched for the best at each release."""

    def __init__(self, limit):
        self.free = limit
        self.waiting = []
        self.served = []

    def arrive(self, name, priority):
        if self.free:
            self.free -= 1
            self.served.append(name)
        else:
            self.waiting.append((priority, name))

    def release(self):
        if not self.waiting:
            self.free += 1
            return
        best = max(self.waiting, key=lambda one: one[0])  # of equals the one that came first
        self.waiting.remove(best)
        self.served.append(best[1])

    def cancel(self, at):
        return self.waiting.pop(at)[1]


async def turn():
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


steps = st.lists(
    st.tuples(st.just("arrive"), st.integers(-3, 3))
    | st.tuples(st.just("release"), st.just(0))
    | st.tuples(st.just("cancel"), st.integers(0, 30)),
    max_size=60,
)


@settings(deadline=None)
@given(st.integers(1, 4), steps)
async def test_places_go_to_the_highest_priority_and_then_to_whoever_came_first(limit, steps):
    bulkhead, model = Bulkhead(limit), Model(limit)
    served, tasks = [], {}

    async def call(name, priority):
        await bulkhead.acquire(priority)
        served.append(name)

    for number, (step, value) in enumerate(steps):
        if step == "arrive":
            tasks[number] = asyncio.create_task(call(number, value))
            model.arrive(number, value)
        elif step == "release" and model.free < limit:
            bulkhead.release()
            model.release()
        elif step == "cancel" and model.waiting:
            tasks[model.cancel(value % len(model.waiting))].cancel()
        await turn()
        assert served == model.served
        assert (bulkhead.in_use, bulkhead.waiting) == (limit - model.free, len(model.waiting))
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@settings(deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
async def test_whoever_is_cancelled_at_whatever_turn_of_the_loop_no_place_is_lost(limit, callers):
    """Given callers of which some are cancelled after a few turns, in the moment of being served too,
    then never more are inside than there are places, and in the end all places are free."""
    bulkhead = Bulkhead(limit)
    inside = most = 0

    async def call(turns):
        nonlocal inside, most
        await bulkhead.acquire()
        inside += 1
        most = max(most, inside)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            bulkhead.release()

    tasks = []
    for turns, patience in callers:
        tasks.append(asyncio.create_task(call(turns)))
        for _ in range(patience):
            await asyncio.sleep(0)
        if patience == 3:
            tasks[len(tasks) // 2].cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert (bulkhead.in_use, bulkhead.waiting, inside) == (0, 0, 0)
    assert most <= limit
    assert [bulkhead.try_acquire() for _ in range(limit + 1)] == [True] * limit + [False]


async def test_a_place_that_is_handed_over_in_the_moment_of_a_cancellation_goes_to_the_next():
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    first, second = (asyncio.create_task(bulkhead.acquire()) for _ in range(2))
    await turn()
    bulkhead.release()  # the first has the place, and has not been told yet
    first.cancel()
    await turn()
    assert first.cancelled()
    assert second.done()
    assert (bulkhead.in_use, bulkhead.waiting) == (1, 0)


async def test_a_waiter_that_gave_up_is_passed_over():
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()
    waiting = asyncio.create_task(bulkhead.acquire(priority=5))
    await turn()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bulkhead.release()
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)


async def test_nobody_overtakes_those_who_wait():
    bulkhead = Bulkhead(1)
    assert bulkhead.try_acquire()
    waiting = asyncio.create_task(bulkhead.acquire())
    await turn()
    bulkhead.release()
    assert not bulkhead.try_acquire(), "the place is free for a moment that nobody may use"
    await waiting
