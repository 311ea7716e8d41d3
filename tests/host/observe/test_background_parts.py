"""A background part that dies is started again, and its death is said until it is well."""

import asyncio

import pytest

from host.observe import background_parts as parts_module
from host.observe.background_parts import LONGEST_WAIT, UNFIT_AFTER, BackgroundParts, PartTrouble
from plugin_sdk.testing import FakeClock


class Bench:
    """BackgroundParts whose waits are over at once, and are remembered."""

    def __init__(self):
        self.clock = FakeClock()
        self.waits = []
        self.parts = BackgroundParts(self.clock, self._sleep)
        self.lives = 0
        self.living = asyncio.Event()

    async def _sleep(self, seconds):
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def dies(self, times, error=None, *, after=0.0):
        """One life of a part that dies so often, and then lives."""

        async def run():
            self.lives += 1
            if self.lives > times:
                self.living.set()
                await asyncio.Event().wait()
            self.clock.advance(after)
            if error is not None:
                raise error

        return run

    async def lives_again(self):
        async with asyncio.timeout(5):
            await self.living.wait()


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
async def start(bench):
    tasks = []

    def begin(*arguments, **named):
        tasks.append(bench.parts.start(*arguments, **named))
        return tasks[-1]

    yield begin
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def test_a_part_that_raises_is_started_again_and_its_death_is_said(bench, start):
    start("data watch", bench.dies(1, OSError("File name too long")))
    await bench.lives_again()
    (trouble,) = bench.parts.trouble()
    assert trouble == PartTrouble(
        "data watch",
        "OSError: File name too long",
        deaths=1,
        since=bench.clock.now().timestamp(),
        unfit=False,
        next_action="it is started again after 1 s",
    )
    assert bench.waits == [1.0]


async def test_the_waits_double_up_to_a_limit_and_soon_the_host_is_unfit(bench, start):
    start("log budget", bench.dies(8, ValueError("inf")))
    await bench.lives_again()
    assert bench.waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_WAIT, LONGEST_WAIT]
    (trouble,) = bench.parts.trouble()
    assert (trouble.unfit, trouble.deaths) == (True, 8)
    assert "restart the daemon" in trouble.next_action


async def test_a_few_deaths_leave_the_host_fit(bench, start):
    start("log budget", bench.dies(UNFIT_AFTER - 1, ValueError("inf")))
    await bench.lives_again()
    assert not bench.parts.trouble()[0].unfit


async def test_deaths_with_a_long_life_between_them_are_each_the_first(bench, start):
    start("log budget", bench.dies(8, ValueError("inf"), after=parts_module.WELL_AFTER))
    await bench.lives_again()
    assert bench.waits == [1.0] * 8
    assert not bench.parts.trouble()[0].unfit


async def test_a_part_that_comes_to_an_end_unasked_has_died(bench, start):
    start("retry clock", bench.dies(1))
    await bench.lives_again()
    assert "should run for ever" in bench.parts.trouble()[0].reason


async def test_a_cancellation_that_nobody_asked_for_is_a_death(bench, start):
    start("settlements", bench.dies(1, asyncio.CancelledError()))
    await bench.lives_again()
    assert bench.parts.trouble()[0].reason == "CancelledError"


async def test_a_part_that_cannot_be_started_again_leaves_the_host_unfit(bench, start):
    task = start("reconciler", bench.dies(1, RuntimeError("lost")), again=False)
    await asyncio.wait((task,))
    (trouble,) = bench.parts.trouble()
    assert (trouble.unfit, trouble.next_action) == (True, "restart the daemon")
    assert (bench.lives, bench.waits) == (1, [])


async def test_a_part_with_an_end_of_its_own_may_reach_it(bench, start):
    task = start("drop-ins", bench.dies(1), ends=True)
    await asyncio.wait((task,))
    assert bench.parts.trouble() == ()


async def test_a_part_that_has_run_for_long_is_well_again(bench, start, monkeypatch):
    monkeypatch.setattr(parts_module, "WELL_AFTER", 0.0)
    start("data watch", bench.dies(1, OSError("no")))
    await bench.lives_again()
    async with asyncio.timeout(5):
        while bench.parts.trouble():
            await asyncio.sleep(0)


async def test_who_stops_the_host_ends_a_part_and_that_is_no_death(bench, start):
    task = start("data watch", bench.dies(0))
    await bench.lives_again()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert bench.parts.trouble() == ()


async def test_a_part_that_waits_to_be_started_again_ends_with_the_host(start):
    parts = BackgroundParts(FakeClock())
    task = parts.start("data watch", Bench().dies(1, OSError("no")))
    while not parts.trouble():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


async def test_deaths_are_counted_for_the_metrics(bench, start):
    start("data watch", bench.dies(2, OSError("no")))
    await bench.lives_again()
    (metric,) = bench.parts.metrics()
    assert [(sample.labels, sample.value) for sample in metric.samples] == [({"part": "data watch"}, 2)]
