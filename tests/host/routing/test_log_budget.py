"""The log's budget: pruning, refusing, letting in again, and telling of it; against a log that is a few numbers."""

import asyncio

import pytest

from host.routing.errors import LogFullError
from host.routing.event_log import Pruned
from host.routing.log_budget import CHECK_SECONDS, ROOM, UNSEEN, LogBudget
from host.storage.errors import StorageFailedError
from plugin_sdk.testing import FakeClock

BUDGET = 1_000_000
HOUR = 3600.0


class FakeLog:
    """A log of a size; pruning takes it down to the budget, but not below what is held."""

    def __init__(self):
        self.used = 0
        self.held = 0
        self.held_by = ()
        self.skipped = {}
        self.pruned = []
        self.failing = False

    async def used_bytes(self):
        return self.used

    async def prune(self, older_than, max_bytes):
        if self.failing:
            raise StorageFailedError("the disk is gone")
        self.pruned.append((older_than, max_bytes))
        before, self.used = self.used, max(min(self.used, max_bytes), self.held)
        skipped, self.skipped = self.skipped, {}
        return Pruned(before - self.used, self.held_by if self.used > max_bytes else (), skipped)


class Bench:
    def __init__(self):
        self.log = FakeLog()
        self.clock = FakeClock()
        self.said = []
        self.budget = LogBudget(self.log, keep_for=HOUR, keep_bytes=BUDGET, clock=self.clock, announce=self._announce)

    async def _announce(self, type_, subject, data):
        self.said.append((type_, subject, data))

    async def fill(self, by="slow/one"):
        self.log.used = self.log.held = int(BUDGET * 1.2)
        self.log.held_by = (by,)
        await self.budget.check()


@pytest.fixture
def bench():
    return Bench()


async def test_what_is_too_old_goes_and_the_budget_stays_as_it_is_while_there_is_room(bench):
    bench.log.used = BUDGET // 2
    await bench.budget.check()
    assert bench.log.pruned == [(bench.clock.now().timestamp() - HOUR, BUDGET)]
    assert bench.said == []
    bench.budget.admit(1000)


async def test_a_log_above_its_budget_is_pruned_with_room_to_spare_so_that_it_is_not_full_again_at_once(bench):
    bench.log.used = BUDGET + 1
    await bench.budget.check()
    assert bench.log.used == int(BUDGET * ROOM)
    assert not bench.budget.full
    assert bench.said == []


async def test_a_log_that_cannot_be_pruned_is_full_and_names_who_holds_it(bench):
    await bench.fill()
    assert bench.budget.full
    assert bench.said == [("log.full", "log", {"bytes": 1_200_000, "budget": BUDGET, "heldBy": ["slow/one"]})]
    with pytest.raises(LogFullError) as refused:
        bench.budget.admit(1)
    assert refused.value.word == "log_full"
    assert refused.value.kind.value == 503
    assert refused.value.retry_after == CHECK_SECONDS
    assert "slow/one did not have the oldest events yet" in refused.value.message
    assert bench.budget.refused == 1


@pytest.mark.parametrize(
    ("share", "full"), [(1.2, True), (1.0, True), (ROOM + 0.01, True), (ROOM, False), (0.5, False)]
)
async def test_a_full_log_takes_events_again_only_once_there_is_room_to_spare(bench, share, full):
    await bench.fill()
    bench.log.used = bench.log.held = int(BUDGET * share)
    await bench.budget.check()
    assert bench.budget.full is full
    assert bench.budget.held_by == (("slow/one",) if full else ())


@pytest.mark.parametrize(("share", "full"), [(ROOM + 0.01, False), (1.0, False), (1.001, True)])
async def test_a_log_that_is_not_full_takes_events_up_to_its_whole_budget(bench, share, full):
    bench.log.used = bench.log.held = int(BUDGET * share)
    await bench.budget.check()
    assert bench.budget.full is full


async def test_full_and_room_are_told_once_each(bench):
    await bench.fill()
    await bench.budget.check()
    bench.log.held, bench.log.held_by = 0, ()
    await bench.budget.check()
    await bench.budget.check()
    assert [type_ for type_, _, _ in bench.said] == ["log.full", "log.has-room"]
    bench.budget.admit(1)


async def test_a_full_log_that_nobody_holds_names_nobody(bench):
    bench.log.used = bench.log.held = BUDGET * 2
    await bench.budget.check()
    with pytest.raises(LogFullError, match="^the event log is full; look at"):
        bench.budget.admit(1)


async def test_a_subscription_that_was_passed_over_is_told_of(bench):
    bench.log.skipped = {"fast/one": 7}
    await bench.budget.check()
    assert bench.said == [("subscription.skipped", "fast/one", {"subscription": "fast/one", "places": 7})]


# -- between two looks


async def test_no_more_is_let_in_between_two_looks_than_a_share_of_the_budget(bench):
    share = int(BUDGET * UNSEEN)
    for _ in range(10):
        bench.budget.admit(share // 10)
    with pytest.raises(LogFullError) as refused:
        bench.budget.admit(share // 10)
    assert refused.value.retry_after == 1.0
    await bench.budget.check()
    bench.budget.admit(share // 10)


async def test_an_event_larger_than_the_share_is_let_in_alone(bench):
    bench.budget.admit(int(BUDGET * UNSEEN) * 3)
    with pytest.raises(LogFullError):
        bench.budget.admit(1)
    await bench.budget.check()
    bench.budget.admit(1)


async def looked(bench, times):
    async with asyncio.timeout(5):
        while len(bench.log.pruned) < times:
            await asyncio.sleep(0)


@pytest.fixture
async def running(bench):
    task = asyncio.create_task(bench.budget.run())
    yield bench
    task.cancel()
    await asyncio.wait((task,))


async def test_half_of_the_share_asks_for_a_look_and_less_does_not(running):
    await looked(running, 1)
    half = int(BUDGET * UNSEEN) // 2
    running.budget.admit(half)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(running.log.pruned) == 1
    running.budget.admit(1)
    await looked(running, 2)


async def test_a_log_that_could_not_be_looked_at_is_looked_at_again(running):
    await looked(running, 1)
    running.log.failing = True
    running.budget.admit(int(BUDGET * UNSEEN))
    for _ in range(20):
        await asyncio.sleep(0)
    running.log.failing = False
    running.budget.admit(int(BUDGET * UNSEEN))
    await looked(running, 2)


async def test_a_full_log_is_looked_at_again_by_itself(monkeypatch):
    monkeypatch.setattr("host.routing.log_budget.CHECK_SECONDS", 0.001)
    bench = Bench()
    await bench.fill()
    task = asyncio.create_task(bench.budget.run())
    await looked(bench, 4)
    bench.log.held, bench.log.held_by = 0, ()
    async with asyncio.timeout(5):
        while bench.budget.full:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait((task,))
    assert [type_ for type_, _, _ in bench.said] == ["log.full", "log.has-room"]
