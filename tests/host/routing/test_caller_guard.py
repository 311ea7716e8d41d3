"""Whose fault an end is, and who holds a place: the guard of those who wait for an answer."""

import asyncio
import time

import pytest

from host.routing.caller_guard import MAX_WAITING, MAX_WAITING_EACH, CallerGuard, party
from host.routing.errors import BreakerOpenError, BulkheadFullError, HookTimeoutError
from host.runtime.errors import HookFailedError, NotRunningError, WorkerDiedError
from plugin_sdk.clock import SystemClock
from plugin_sdk.errors import ArgumentsError, Drop, HostError
from plugin_sdk.resilience import Breaker, BreakerPolicy, BreakerState


def guard(places=8, **policy):
    clock = SystemClock()
    return CallerGuard("p", breaker=Breaker(BreakerPolicy(**policy), clock=clock), places=places, clock=clock)


async def serve(one, hook, caller="shop", timeout=5.0, longest=None):
    return await one.serve(hook, "call", caller=caller, timeout=timeout, longest=longest)


async def good():
    return "done"


def raising(error):
    async def hook():
        raise error

    return hook


class Stubborn:
    """Hooks that go on after they were cancelled, until they are let go."""

    def __init__(self):
        self.running = 0
        self.over = asyncio.Event()

    async def __call__(self):
        self.running += 1
        while not self.over.is_set():
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                continue


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_the_hooks_answer_comes_out_and_the_place_is_free_again():
    one = guard()
    assert await serve(one, good) == "done"
    assert (one.bulkhead.in_use, one._callers, one.measures["call"].succeeded) == (0, {}, 1)


async def test_five_calls_cut_off_by_their_callers_deadline_are_no_failure_of_the_callee():
    one = guard()
    for _ in range(20):
        with pytest.raises(HookTimeoutError, match="the time its caller has"):
            await serve(one, asyncio.Event().wait, longest=0.001)
    assert one.breaker.snapshot().calls == 0
    assert one.measures["call"].callers == 20
    assert await serve(one, good) == "done"


@pytest.mark.parametrize("longest", [None, 0.01, 60.0])
async def test_not_to_end_in_its_own_time_is_the_callees_failure_however_long_the_caller_waits(longest):
    one = guard()
    with pytest.raises(HookTimeoutError):
        await serve(one, asyncio.Event().wait, timeout=0.01, longest=longest)
    assert one.breaker.snapshot().consecutive_failures == 1
    assert one.measures["call"].timed_out == 1


async def test_a_failure_that_is_heard_when_the_callers_time_is_up_anyway_is_its_deadline():
    """Given a callee whose own call ran into what was left of the caller's time, it raises at that very moment."""
    one = guard()

    async def hook():
        time.sleep(0.02)  # noqa: ASYNC251 - the loop is busy, so the caller's timer is heard too late
        raise HostError("further.call: did not end", "hook_timeout")

    with pytest.raises(HostError):
        await serve(one, hook, longest=0.01)
    assert one.breaker.snapshot().calls == 0
    with pytest.raises(HostError):
        await serve(one, hook, longest=3.0)
    assert one.breaker.snapshot().consecutive_failures == 1


NOBODYS = [
    (ArgumentsError("send: missing a required argument: 'to'"), "callers"),
    (HostError("shop -> mailer -> shop", "call_cycle"), "callers"),
    (Drop("on purpose"), "decided"),
    (NotRunningError("no worker"), "cancelled"),
]
ITS_OWN = [
    LookupError("no"),
    HookFailedError("TypeError", "from inside the method"),
    HostError("what it called does not take this", "arguments_invalid"),
    HostError("what it called has failed", "plugin_call_failed"),
    WorkerDiedError("the worker ended"),
]


@pytest.mark.parametrize(("error", "measure"), NOBODYS, ids=lambda value: type(value).__name__)
async def test_what_its_callers_do_wrong_does_not_open_the_breaker(error, measure):
    one = guard()
    for _ in range(20):
        with pytest.raises(type(error)):
            await serve(one, raising(error))
    assert one.breaker.state is BreakerState.CLOSED
    assert one.breaker.snapshot().calls == 0
    assert getattr(one.measures["call"], measure) == 20


@pytest.mark.parametrize("error", ITS_OWN, ids=lambda error: f"{type(error).__name__} {error}"[:40])
async def test_what_the_callee_lets_out_is_its_failure_wherever_it_began(error):
    one = guard()
    for _ in range(5):
        with pytest.raises(type(error)) as raised:
            await serve(one, raising(error))
        assert raised.value is error
    assert one.breaker.state is BreakerState.OPEN
    with pytest.raises(BreakerOpenError) as refused:
        await serve(one, good)
    assert 59 < refused.value.retry_after <= 60
    assert one.bulkhead.in_use == 0


async def test_a_hook_that_cancels_itself_fails_and_does_not_cancel_who_called_it():
    one = guard()
    with pytest.raises(HookFailedError, match="CancelledError"):
        await serve(one, raising(asyncio.CancelledError()))
    assert one.breaker.snapshot().consecutive_failures == 1


async def test_a_caller_that_goes_away_takes_its_call_with_it_and_counts_for_nothing():
    one = guard()
    ended = asyncio.Event()

    async def hook():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    calling = asyncio.create_task(serve(one, hook))
    await until(lambda: one.bulkhead.in_use)
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await ended.wait()
    await one.stop()
    assert (one.breaker.snapshot().calls, one.bulkhead.in_use, one.overstaying) == (0, 0, 0)


async def test_a_call_whose_caller_has_gone_holds_its_place_until_its_hook_has_ended():
    """Given hooks that do not heed a cancellation, no more of them go on than there are places."""
    one = guard(4)
    stubborn = Stubborn()
    for caller in ("a", "b"):
        for _ in range(2):
            with pytest.raises(HookTimeoutError):
                await serve(one, stubborn, caller, longest=0.001 if stubborn.running else 0.01)
    assert (one.bulkhead.in_use, one.overstaying) == (4, 4)
    for caller in ("a", "c"):
        with pytest.raises(BulkheadFullError):
            await serve(one, stubborn, caller, longest=0.01)
    stubborn.over.set()
    await one.stop()
    assert (one.bulkhead.in_use, one.overstaying, one._callers) == (0, 0, {})
    assert await serve(one, good) == "done"


async def test_one_caller_holds_half_of_the_places_and_the_others_find_some_free():
    one = guard(8)
    greedy = [asyncio.create_task(serve(one, asyncio.Event().wait, "greedy")) for _ in range(MAX_WAITING + 8)]
    await until(lambda: sum(call.done() for call in greedy) == len(greedy) - 4 - MAX_WAITING_EACH)
    assert one.bulkhead.in_use == 4
    assert await serve(one, good, "other") == "done"
    for call in greedy:
        call.cancel()
    await asyncio.wait(greedy)
    await one.stop()
    assert one._callers == {}


async def test_calls_of_one_caller_beyond_its_part_wait_for_their_turn():
    one = guard(4)
    at_once = most = 0

    async def counted():
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return "done"

    assert await asyncio.gather(*(serve(one, counted) for _ in range(20))) == ["done"] * 20
    assert most == 2


async def test_the_table_of_callers_is_bounded_by_who_holds_or_waits_for_a_place():
    one = guard(4)
    calls = [asyncio.create_task(serve(one, asyncio.Event().wait, f"caller-{number}")) for number in range(500)]
    await until(lambda: sum(call.done() for call in calls) == 500 - 4 - MAX_WAITING)
    assert len(one._callers) == 4 + MAX_WAITING
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await one.stop()
    assert (one._callers, one.bulkhead.in_use, one._waiting) == ({}, 0, 0)


async def test_callers_that_give_up_in_the_very_moment_in_which_a_place_comes_free_are_gone_without_a_trace():
    one = guard(2)
    await one._admit("shop", 1.0)
    waiting = [asyncio.create_task(serve(one, good)) for _ in range(3)]
    await until(lambda: one._waiting == 3)
    for task in waiting:
        task.cancel()
    one._leave("shop")
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in ended] == [asyncio.CancelledError] * 3
    assert (one._callers, one.bulkhead.in_use, one._waiting) == ({}, 0, 0)
    assert await serve(one, good) == "done"


async def test_a_probe_is_not_held_by_a_call_that_waits_for_a_place():
    one = guard(2, open_for=0.001, probes=1)
    stay = asyncio.Event()
    held = asyncio.create_task(serve(one, stay.wait, "slow"))
    await until(lambda: one.bulkhead.in_use)
    for _ in range(5):
        with pytest.raises(LookupError):
            await serve(one, raising(LookupError("no")), "other")
    await asyncio.sleep(one.breaker.wait_hint())
    waiting = asyncio.create_task(serve(one, good, "slow"))
    await until(lambda: one._waiting)
    assert one.breaker.state is BreakerState.HALF_OPEN
    assert await serve(one, good, "other") == "done"
    assert one.breaker.state is BreakerState.CLOSED
    stay.set()
    assert await waiting == "done"
    await held


@pytest.mark.parametrize(
    ("address", "who"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("", ""),
        ("/run/proxy.sock", "/run/proxy.sock"),
    ],
)
def test_addresses_of_one_party_are_one_caller(address, who):
    assert party(address) == who
