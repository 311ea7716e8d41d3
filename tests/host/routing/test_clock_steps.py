"""A clock that is set, or a machine that slept, while deliveries wait for their next attempt."""

import pytest
from delivery_rig import event, rig

from host.routing.retry_clock import RetryClock

HOUR = 3600.0


@pytest.fixture
async def bench(tmp_path):
    async with rig(tmp_path) as made:
        yield made


async def fail_once(bench):
    async def answer(call):
        if call.delivery.attempt == 1:
            raise RuntimeError("not yet")

    bench.plugin.answer = answer
    watch = RetryClock(bench.log, bench.router, bench.clock)
    await bench.consumer(first_retry=60.0)
    await bench.publish(event(1))
    await bench.quiet()
    assert len(bench.plugin.calls) == 1
    return watch


async def test_a_clock_that_is_set_back_does_not_have_deliveries_wait_longer(bench):
    watch = await fail_once(bench)
    bench.clock.step(-HOUR)
    await watch.look()
    await bench.advance(59)
    assert len(bench.plugin.calls) == 1
    await bench.advance(1)
    assert len(bench.plugin.calls) == 2


async def test_what_came_due_while_the_machine_slept_is_delivered_at_once(bench):
    watch = await fail_once(bench)
    bench.clock.step(72 * HOUR)
    await watch.look()
    await bench.quiet()
    assert len(bench.plugin.calls) == 2


async def test_small_corrections_of_the_clock_change_nothing(bench):
    watch = await fail_once(bench)
    bench.clock.step(-2.0)
    await watch.look()
    await bench.advance(60)
    assert len(bench.plugin.calls) == 1
    await bench.advance(2)
    assert len(bench.plugin.calls) == 2


async def test_no_delivery_is_lost_or_made_twice_by_a_clock_that_is_set_back_and_forth(bench):
    watch = await fail_once(bench)
    for step in (-HOUR, HOUR, -3 * HOUR, 2 * HOUR):
        bench.clock.step(step)
        await watch.look()
    await bench.advance(60)
    await bench.advance(60)
    assert bench.plugin.ids == ["1", "1"]
    assert [one.outcome.value for one in await bench.attempts()] == ["retried", "delivered"]
