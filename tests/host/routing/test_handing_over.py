"""A consumer that stops leaves to the next one of its subscription exactly what it has not delivered."""

import asyncio

import pytest
from delivery_rig import event, rig


@pytest.fixture(params=[True, False], ids=["without tasks", "with tasks"])
async def bench(request, tmp_path):
    async with rig(tmp_path) as made:
        made.plugin.ahead = request.param
        yield made


async def test_an_event_that_becomes_durable_while_a_consumer_stops_is_the_next_ones(bench):
    """Given a consumer that stops and waits for a hook, when an event is committed, then it is not passed over."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_call):
        entered.set()
        await leave.wait()

    first = await bench.consumer()
    bench.plugin.answer = slow
    await bench.publish(event(1))
    await entered.wait()
    stopping = asyncio.create_task(first.stop(10))
    await asyncio.sleep(0)
    await bench.publish(event(2), event(3))
    leave.set()
    await stopping
    bench.consumers.remove(first)
    await bench.consumer()
    await bench.quiet()
    assert bench.plugin.ids == ["1", "2", "3"]


async def test_what_was_not_for_a_consumer_is_behind_its_cursor_when_it_has_stopped(bench):
    first = await bench.consumer(types=("a.*",))
    await bench.publish(event(1), event(2, "b.c"))
    await bench.quiet()
    await first.stop(1)
    assert await bench.log.cursor(first.key, start=0) == 2
