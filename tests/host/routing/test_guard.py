import asyncio

import pytest

from host.routing.errors import HookTimeoutError, NoSuchDeliveryError
from host.routing.guard import Guard
from plugin_sdk.clock import SystemClock
from plugin_sdk.errors import Retry
from plugin_sdk.resilience import Breaker, BreakerPolicy, BreakerState, Bulkhead


def guard(places=8, **policy):
    clock = SystemClock()
    return Guard("p", breaker=Breaker(BreakerPolicy(**policy), clock=clock), bulkhead=Bulkhead(places), clock=clock)


async def run(one, hook, timeout=5.0, delivery_id=None):
    return await one.run(await one.admit(), hook, "on_event", timeout, delivery_id)


async def good():
    return "done"


async def bad():
    raise LookupError("no")


async def test_the_hooks_answer_comes_out_and_the_place_is_free_again():
    one = guard()
    assert await run(one, good) == "done"
    assert one.bulkhead.in_use == 0
    assert one.measures["on_event"].succeeded == 1


async def test_a_hook_that_waits_runs_in_the_callers_task_and_may_use_timeouts_of_its_own():
    one = guard()
    caller = asyncio.current_task()

    async def hook():
        assert asyncio.current_task() is caller
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        await asyncio.sleep(0)
        return asyncio.current_task() is caller

    assert await run(one, hook)


async def test_what_the_hook_raises_comes_out_unchanged_and_counts_as_a_failure():
    one = guard()
    with pytest.raises(LookupError):
        await run(one, bad)
    assert one.breaker.snapshot().consecutive_failures == 1
    assert one.bulkhead.in_use == 0


async def test_a_verdict_is_the_decision_of_a_healthy_plugin():
    one = guard()

    async def later():
        raise Retry(5)

    for _ in range(20):
        with pytest.raises(Retry):
            await run(one, later)
    assert one.breaker.state is BreakerState.CLOSED
    assert one.measures["on_event"].decided == 20


async def test_a_hook_that_takes_too_long_is_cancelled_and_counts_as_a_failure():
    one = guard()
    ended = asyncio.Event()

    async def endless():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(HookTimeoutError):
        await run(one, endless, 0.02)
    assert ended.is_set()
    assert one.breaker.snapshot().consecutive_failures == 1
    assert asyncio.current_task().cancelling() == 0


async def test_cancelling_the_caller_cancels_the_hook_and_counts_for_nothing():
    one = guard()
    task = asyncio.create_task(run(one, asyncio.Event().wait))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.breaker.snapshot().calls == 0
    assert one.bulkhead.in_use == 0


async def test_a_running_delivery_can_start_its_time_limit_anew():
    one = guard()

    async def long():
        for _ in range(4):
            await asyncio.sleep(0.03)
            one.extend("d")
        return "done"

    assert await run(one, long, 0.08, "d") == "done"
    with pytest.raises(NoSuchDeliveryError):
        one.extend("d")


async def test_a_delivery_waits_at_an_open_breaker_until_it_lets_it_through():
    one = guard(open_for=0.05)
    for _ in range(5):
        with pytest.raises(LookupError):
            await run(one, bad)
    async with asyncio.timeout(5):
        assert await run(one, good) == "done"


async def test_fifty_deliveries_waiting_at_a_half_open_breaker_come_through_in_turn():
    one = guard(50, open_for=0.05, probes=3)
    for _ in range(5):
        with pytest.raises(LookupError):
            await run(one, bad)
    at_once, most = 0, 0

    async def counted():
        nonlocal at_once, most
        if one.breaker.state is BreakerState.HALF_OPEN:
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1

    async with asyncio.timeout(5):
        await asyncio.gather(*(run(one, counted) for _ in range(50)))
    assert most == 3
    assert one.breaker.state is BreakerState.CLOSED


async def test_a_cancelled_wait_for_a_place_leaves_no_place_taken():
    one = guard(1)
    permit = await one.admit()
    waiting = asyncio.create_task(one.admit())
    await asyncio.sleep(0)
    waiting.cancel()
    permit.give_back()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert one.bulkhead.in_use == 0
