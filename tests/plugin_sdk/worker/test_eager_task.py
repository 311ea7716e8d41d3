"""An eager task takes its first step at once, and hears of a cancellation as any task does, whenever it comes."""

import asyncio

import pytest
import uvloop

from plugin_sdk.worker.eager_task import eager_task


async def waits_for_a_while(heard):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        heard.append("cancelled")


async def waits_for_the_next_turn(heard):
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        heard.append("cancelled")


async def waits_for_a_time_limit(heard):
    try:
        async with asyncio.timeout(60):
            await asyncio.sleep(60)
    except asyncio.CancelledError:
        heard.append("cancelled")


async def cancels_itself(heard):
    asyncio.current_task().cancel()
    await waits_for_a_while(heard)


async def goes_on_all_the_same(heard):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        heard.append("went on")


async def begin(coroutine, *, cancelled_after=None):
    """Run a coroutine as the worker does, from a callback; cancel it so many turns of the loop later."""
    loop = asyncio.get_running_loop()
    begun = loop.create_future()

    def cancel(task, turns):
        if turns:
            loop.call_soon(cancel, task, turns - 1)
        else:
            task.cancel()

    def first_turn():
        task = eager_task(coroutine, loop)
        if cancelled_after is not None:
            cancel(task, cancelled_after)
        begun.set_result(task)

    loop.call_soon(first_turn)
    task = await begun
    if task is not None:
        async with asyncio.timeout(5):
            await asyncio.wait((task,))
        assert not task.cancelled()
    return task


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (waits_for_a_while, ["cancelled"]),
        (waits_for_the_next_turn, ["cancelled"]),
        (waits_for_a_time_limit, ["cancelled"]),
        (goes_on_all_the_same, ["went on"]),
    ],
)
def test_one_that_is_cancelled_hears_of_it_whenever_that_is(hook, expected, turns, new_loop):
    heard = []
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(begin(hook(heard), cancelled_after=turns))
    assert heard == expected


async def test_one_that_cancels_itself_in_its_first_step_hears_of_it():
    heard = []
    await begin(cancels_itself(heard))
    assert heard == ["cancelled"]


async def test_what_it_waits_for_is_cancelled_with_it():
    heard = []
    inner = asyncio.create_task(waits_for_a_while(heard))
    await asyncio.sleep(0)

    async def waits():
        await inner
        heard.append("its waiter went on")

    await begin(waits(), cancelled_after=0)
    assert heard == ["cancelled", "its waiter went on"]


async def test_one_that_never_waits_is_done_at_once():
    heard = []

    async def says():
        heard.append(asyncio.current_task())

    assert await begin(says()) is None
    assert len(heard) == 1


async def test_it_goes_on_where_the_first_step_stopped():
    heard = []

    async def steps():
        for step in range(5):
            heard.append(step)
            await asyncio.sleep(0)

    await begin(steps())
    assert heard == [0, 1, 2, 3, 4]
