"""Deliveries in both runtimes: each is told of once, with what its hook raised."""

import asyncio

import pytest
from flights import Heard, handed

from host.runtime.errors import HookFailedError, NotRunningError, WorkerDiedError
from plugin_sdk.errors import DeadLetter, Drop, Retry
from plugin_sdk.events import new_event


def example(data):
    return new_event("example.event", source="/tests", data=data)


async def test_every_delivery_of_a_flight_is_told_of_with_what_became_of_it(runtime):
    one, heard = await runtime(), Heard()
    flight, ones = handed(example("x"), example("retry"), example("drop"), example("dead"), example("raise"))
    one.fly(flight, ones, heard)
    for _ in range(3):
        one.go_on()
    ends = await heard.of(*ones)
    assert [type(end) for end in ends] == [type(None), Retry, Drop, DeadLetter, HookFailedError]
    assert ends[-1].message == "LookupError: author's line"
    assert all(0 <= seconds < 30 for seconds in heard.seconds.values())


async def test_what_is_handed_over_before_it_runs_or_after_it_ended_is_refused(runtime):
    one, heard = await runtime(), Heard()
    await one.stop(2.0, 2.0)
    with pytest.raises(NotRunningError):
        one.fly(*handed(example("x")), heard)


async def test_a_cancelled_delivery_cancels_its_hook_and_is_not_told_of(runtime, host):
    one, heard = await runtime(), Heard()
    flight, (hangs, other) = handed(example("hang"), example("x"))
    one.fly(flight, (hangs, other), heard)
    await heard.of(other)
    async with asyncio.timeout(30):
        while "hangs" not in host.kv:
            await asyncio.sleep(0.01)
    one.cancel(hangs)
    async with asyncio.timeout(30):
        while "cancelled" not in host.kv:
            await asyncio.sleep(0.01)
    flight, (after,) = handed(example("x"), first=3)
    one.fly(flight, (after,), heard)
    await heard.of(after)
    assert hangs not in heard.ends
    assert one.snapshot().overdue_for == 0


async def test_one_that_is_cancelled_before_it_has_begun_never_begins(runtime, host):
    one, heard = await runtime(), Heard()
    flight, ones = handed(*(example("hang") for _ in range(8)), example({"keep": "begun"}), example("x"))
    one.fly(flight, ones, heard)
    one.cancel(ones[8])
    for hanging in ones[:8]:
        one.cancel(hanging)
    assert await heard.of(ones[9]) == [None]
    assert "kept" not in host.kv


async def test_a_worker_gives_back_what_it_has_not_begun(worker):
    one, heard = await worker(), Heard()
    flight, ones = handed(*(example("hang") for _ in range(8)), example("x"), example("x"))
    one.fly(flight, ones, heard)
    one.recall(ones)
    async with asyncio.timeout(30):
        while not heard.back:
            await asyncio.sleep(0.01)
    assert heard.back == ones[8:]
    assert heard.ends == {}


async def test_where_a_worker_dies_each_delivery_that_it_had_is_told_of(worker):
    one, heard = await worker(), Heard()
    flight, ones = handed(example("hang"), example("exit"), example("x"))
    one.fly(flight, ones, heard)
    ends = await heard.of(*ones[:2])
    assert all(isinstance(end, WorkerDiedError) for end in ends)
